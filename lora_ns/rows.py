"""Rows of local files, read one by one so that every problem has its place.

JSON lines are parsed line by line and never by a guessed column type: a value that changes its type in line 10,001 is
just a value.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lora_ns.errors import DataError, MissingError, Problem
from lora_ns.formats import RowFaultError

MOST_PROBLEMS = 5
"""Problems of one file that are told; the rest is counted."""


@dataclass(frozen=True)
class Row:
    """One row and where it stands, such as `train.jsonl:17`."""

    where: str
    values: Mapping[str, Any]


Outcome = Row | Problem


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """All rows of a file, or the first `limit`.

    Raises:
        DataError: with the first problems of the file, or because it has no rows.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(Problem(str(path), f"cannot read `{path.suffix or path.name}`", f"known: {', '.join(READERS)}"))
    if not path.is_file():
        raise DataError(Problem(str(path), "no such file" if not path.exists() else "is not a file", "check the path"))
    rows, problems = _gather(_outcomes(reader, path), limit)
    if problems:
        raise DataError(told(problems))
    if not rows:
        raise DataError(Problem(str(path), "no rows", "put one row into it at least"))
    return rows


T = TypeVar("T")


def for_each(rows: Sequence[Row], read: Callable[[Row], T]) -> list[T]:
    """What `read` makes of each row, in their order.

    Raises:
        DataError: with the rows for which it raised `RowFaultError`, all of them looked at.
    """
    found, problems = try_each(rows, read)
    if problems:
        raise DataError(told(problems))
    return found


def try_each(rows: Sequence[Row], read: Callable[[Row], T]) -> tuple[list[T], list[Problem]]:
    """What `read` makes of the rows, and the problems of those for which it raised `RowFaultError`."""
    found: list[T] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            found.append(read(row))
        except RowFaultError as fault:
            problems.append(Problem(row.where, fault.what, fault.remedy, fault.code))
    return found, problems


def told(problems: list[Problem]) -> list[Problem]:
    """The first few of many problems, and how many more there are."""
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], Problem("", f"and {len(problems) - MOST_PROBLEMS:,} more like these")]


def _gather(outcomes: Iterator[Outcome], limit: int | None) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for outcome in outcomes:
        if isinstance(outcome, Problem):
            problems.append(outcome)
        else:
            rows.append(outcome)
        if limit is not None and len(rows) >= limit:
            break
    return rows, problems


def _outcomes(reader: Callable[[Path], Iterator[Outcome]], path: Path) -> Iterator[Outcome]:
    try:
        yield from reader(path)
    except OSError as error:
        yield Problem(str(path), f"cannot be read: {error.strerror or error}")


def _json_lines(path: Path) -> Iterator[Outcome]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_line(f"{path}:{number}", line.rstrip(b"\r\n"))


def _json_line(where: str, line: bytes) -> Outcome:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Problem(where, f"not UTF-8 at byte {error.start + 1} of the line", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        return Problem(where, f"not JSON at column {error.colno}: {error.msg.lower()}", "each line is one JSON object")
    except (ValueError, RecursionError) as error:
        return Problem(where, f"cannot be read: {str(error).partition(';')[0].lower()}", "write the number as a string")
    return _object(where, values)


def _object(where: str, values: Any) -> Outcome:
    if isinstance(values, dict):
        return Row(where, values)
    return Problem(where, f"{_kind(values)} instead of an object", 'a row is `{"column": value, ...}`')


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _json(path: Path) -> Iterator[Outcome]:
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Problem(str(path), f"not UTF-8 at byte {error.start + 1}", "save the file as UTF-8")
        return
    except json.JSONDecodeError as error:
        hint = "a file with one object a line is called .jsonl" if error.msg == "Extra data" else "check the syntax"
        yield Problem(f"{path}:{error.lineno}", f"not JSON at column {error.colno}: {error.msg.lower()}", hint)
        return
    except (ValueError, RecursionError) as error:
        yield Problem(str(path), f"cannot be read: {str(error).partition(';')[0].lower()}", "write it as a string")
        return
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        yield Problem(
            str(path), f"{'an object' if isinstance(content, dict) else _kind(content)} instead of a list of rows"
        )
        return
    for number, values in enumerate(content, start=1):
        yield _object(f"{path}, row {number}", values)


def _csv(path: Path) -> Iterator[Outcome]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Problem(str(path), f"not UTF-8 at byte {error.start + 1}", "save the file as UTF-8")
        return
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = cells
                if twice := [name for name in dict.fromkeys(header) if header.count(name) > 1]:
                    yield Problem(f"{path}:1", f"column `{twice[0]}` is there twice", "rename one of them")
                    return
            elif len(cells) == len(header):
                yield Row(f"{path}:{reader.line_num}", dict(zip(header, cells, strict=True)))
            elif cells:
                yield Problem(
                    f"{path}:{reader.line_num}",
                    f"{len(cells)} cells, and the header has {len(header)}",
                    "check the quotes",
                )
    except csv.Error as error:
        yield Problem(f"{path}:{reader.line_num}", f"not CSV: {error}", "double a quote inside quotes")


def _parquet(path: Path) -> Iterator[Outcome]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingError(Problem(str(path), "reading Parquet needs pyarrow", "`pip install pyarrow`")) from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", values)
    except pyarrow.ArrowInvalid as error:
        yield Problem(str(path), f"not Parquet: {str(error).splitlines()[0].rstrip('.').lower()}", "write it again")


READERS: Mapping[str, Callable[[Path], Iterator[Outcome]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""File kind to reader."""
