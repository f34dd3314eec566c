"""Rows of local files, read one by one so that every problem has its place.

JSON lines are parsed line by line, without guessed column types: a value that changes its type in line 10,001 is just a
value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import IO

from lora_ns.data.files.kinds import KINDS, KNOWN, PACKED, find_kind
from lora_ns.data.files.layout import PLAIN, Layout
from lora_ns.data.files.lines import decoded_line, numbered_lines
from lora_ns.data.files.packing import DamagedError, kind_of, opened_file, without_end
from lora_ns.data.rows import Found, Outcome, Row, no_rows, shortened
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import LARGEST_TEXT, exists, is_file, shown_size


def read_rows(path: Path, limit: int | None = None, layout: Layout = PLAIN) -> list[Row]:
    """Read all rows of a file, or the first `limit`.

    Raises:
        DataError: with the first problems of the file, or because it has no rows.
    """
    return read_files([path], limit, layout=layout).rows


def read_files(paths: Sequence[Path], limit: int | None = None, max_bad_rows: int = 0, layout: Layout = PLAIN) -> Found:
    """Read all rows of some files in order, or the first `limit`; up to `max_bad_rows` faulty rows are skipped.

    Raises:
        DataError: with the first problems of the files, or because there are no rows.
    """
    if unfit := [problem for path in paths if (problem := _unfit(path))]:
        raise DataError(shortened(unfit))
    outcomes = (outcome for path in paths for outcome in _outcomes(path, layout))
    rows, problems = _gather(outcomes, limit, max(max_bad_rows, _MOST_GATHERED))
    if len(problems) > max_bad_rows or (problems and not rows):
        raise DataError(shortened(problems))
    if not rows:
        raise DataError(shortened([no_rows(path) for path in paths]))
    return Found(rows, tuple(problems))


def read_outcomes(path: Path, layout: Layout = PLAIN) -> list[Outcome]:
    """Read all rows of a file, with the problems of unreadable ones in their places.

    Raises:
        DataError: if the file cannot be read at all, or has no rows.
    """
    if problem := _unfit(path):
        raise DataError(problem)
    found = list(_outcomes(path, layout))
    if not found:
        raise DataError(no_rows(path))
    return found


def each_row(paths: Sequence[Path], layout: Layout = PLAIN) -> Iterator[Outcome]:
    """Yield the rows of some files one by one, and the problems of unreadable ones; nothing is kept in memory.

    Raises:
        DataError: if a file cannot be read at all, or is one list, which cannot be read in parts.
    """
    unfit = [problem for path in paths if (problem := _unfit(path) or _whole(path))]
    if unfit:
        raise DataError(shortened(unfit))
    for path in paths:
        yield from _outcomes(path, layout)


def _whole(path: Path) -> Problem | None:
    kind = find_kind(path)
    return Problem(str(path), *kind.whole) if kind and kind.whole else None


def is_known(path: PurePath) -> bool:
    """True if there is a reader for this file name."""
    kind, packing = kind_of(path)
    return kind in (PACKED if packing else KINDS)


def _unfit(path: Path) -> Problem | None:
    """Explain why a path cannot be read, as far as that is known without opening it."""
    if not is_known(path):
        return Problem(str(path), f"cannot read `{''.join(kind_of(path)) or path.name}`", f"known: {KNOWN}")
    if not is_file(path):
        return Problem(str(path), "is not a file" if exists(path) else "no such file", "check the path")
    return None


_MOST_GATHERED = 10_000
"""Problems after which reading stops, unless more are allowed."""


def _gather(outcomes: Iterator[Outcome], limit: int | None, most: int) -> tuple[list[Row], list[Problem]]:
    """Collect rows and problems, up to a number of problems.

    A file that is unusable ends the collection, and is reported after the problems before it.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    try:
        for outcome in outcomes:
            if isinstance(outcome, Problem):
                problems.append(outcome)
            else:
                rows.append(outcome)
            if (limit is not None and len(rows) >= limit) or len(problems) > most:
                break
    except DamagedError:
        raise  # the rows of a damaged file are meaningless
    except DataError as error:
        raise DataError(shortened([*problems, *error.problems])) from None
    return rows, problems


def _outcomes(path: Path, layout: Layout) -> Iterator[Outcome]:
    try:
        yield from KINDS[kind_of(path)[0]].rows(path, layout)
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read: {error.strerror or error}")) from None


def read_prompts(path: Path) -> list[str]:
    """Read the lines of a `.txt` file as prompts, including blank lines, except those at the end.

    Raises:
        DataError: at the first line that cannot be read.
    """
    if problem := _unfit(path):
        raise DataError(problem)
    with opened_file(path) as file:
        return prompts_of(path, file)


def prompts_of(path: Path, file: IO[bytes]) -> list[str]:
    """Read the prompts from an open file; `path` is its name in messages."""
    texts: list[str] = []
    size = 0
    for number, line in numbered_lines(path, file):
        texts.append(without_end(decoded_line(path, number, line)))
        size += len(texts[-1]) + 50  # overhead of a Python string
        if size > LARGEST_TEXT:
            raise DataError(Problem(str(path), f"is larger than {shown_size(LARGEST_TEXT)}", "split it"))
    while texts and not texts[-1].strip():
        texts.pop()
    return texts
