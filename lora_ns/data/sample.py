"""The first rows of data files for `lorans init`, and a file of evaluation rows beside them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from lora_ns.data.files.kinds import find_kind
from lora_ns.data.files.layout import Layout
from lora_ns.data.files.packing import kind_of, opened_file
from lora_ns.data.files.paths import find_files
from lora_ns.data.files.read import read_files
from lora_ns.data.files.tables import TAB, sniff_delimiter
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import is_folder

MOST_ROWS = 2000
"""Largest number of rows to read."""


@dataclass(frozen=True)
class Sample:
    """The first rows of some files."""

    path: Path
    """The value of `dataset.path`, relative to the current folder."""
    rows: Sequence[Row]
    is_all: bool
    """True if there are no more rows."""
    count: int
    """Number of all rows; an estimate from the size of the files if there are more."""
    keys: Mapping[str, Any]
    """Keys of `[dataset]` about the files, such as the names of their columns."""
    notes: tuple[str, ...] = ()
    """Notes on assumptions about the files."""
    evaluation: Path | None = None
    """File beside it with a name for evaluation rows, such as `test.jsonl`, and the same columns."""


def look_at_files(name: str, given: Mapping[str, Any]) -> Sample:
    """Read the first rows of a file, a folder or a pattern, relative to the current folder.

    Args:
        name: a value of `dataset.path`.
        given: keys of `[dataset]` that are already set.

    Raises:
        DataError: if the file does not exist or cannot be read.
    """
    files, path = find_files(Path(), name, "--data"), Path(name).expanduser()
    if len(files) > 1 and is_folder(path) and (training := _training_file(files)):
        files, path = [training], training
    keys, notes = _layout_keys(files[0], given)
    layout = _layout(given, keys)
    rows = read_files(files, MOST_ROWS + 1, given.get("max_bad_rows", 0), layout).rows
    is_all, rows = len(rows) <= MOST_ROWS, rows[:MOST_ROWS]
    notes += [note for file in files if (kind := find_kind(file)) for note in kind.notes(file, layout)]
    evaluation = None
    if len(files) == 1 and not given.keys() & {"eval_path", "eval_fraction"}:
        evaluation = _beside(files[0], rows, layout)
    count = len(rows) if is_all else _estimate(files, rows)
    return Sample(path, rows, is_all, count, keys, tuple(notes), evaluation)


def _layout(given: Mapping[str, Any], keys: Mapping[str, Any]) -> Layout:
    both = {**keys, **given}
    return Layout(both.get("column_names", ()), both.get("delimiter"), both.get("sample_by", "document"))


# Files that can be read in several ways


def _layout_keys(file: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the keys to read a table without a header, and notes on them.

    Raises:
        DataError: if a text file looks like a table, and its columns have no names.
    """
    kind = find_kind(file)
    if kind is None or not kind.is_table or given.keys() & {"column_names", "delimiter", "sample_by"}:
        return {}, []
    lines = _first_lines(file)
    if kind.is_plain_text:
        _check_no_table(file, lines)
        text = f'{file}: one row; set `dataset.sample_by = "line"` for one row per line'
        return {}, [text] if len(lines) > 1 else []
    mark = TAB if kind_of(file)[0] == ".tsv" else sniff_delimiter(file)
    header = lines[0].split(mark) if lines else []
    if not _is_row(header):
        return {}, []
    names = _names(header)
    return {"column_names": names}, [f"{file}: no header, so the columns are named {', '.join(names)}"]


_LINES = 20


def _first_lines(file: Path) -> list[str]:
    try:
        with opened_file(file) as stream:
            found = [line.decode("utf-8-sig", errors="replace") for line in itertools.islice(stream, _LINES)]
    except OSError:
        return []  # reported when the rows are read
    return [line.rstrip("\r\n") for line in found if line.strip()]


def _check_no_table(file: Path, lines: Sequence[str]) -> None:
    """Refuse a text file whose lines have the same number of tabs. Raises `DataError`."""
    tabs = max((line.count(TAB) for line in lines), default=0)
    if tabs and sum(line.count(TAB) == tabs for line in lines) > 0.8 * len(lines) > 1:
        what = f"looks like a table with {tabs + 1} tab-separated columns, but a {file.suffix} file is read as text"
        remedy = 'name its columns with `--set \'dataset.column_names=["label", "text"]\'`, or rename it to .tsv'
        raise DataError(Problem(str(file), what, remedy))


_LONGEST_NAME = 60


def _is_row(header: Sequence[str]) -> bool:
    """True if a header contains values instead of names: numbers, or whole sentences."""
    return any(re.fullmatch(r"-?[\d.]+", cell) or len(cell) > _LONGEST_NAME for cell in header)


def _names(cells: Sequence[str]) -> list[str]:
    """Name the columns of a table by its first row: the longest cell is the text, the only other one the label."""
    names = [f"column{number}" for number in range(1, len(cells) + 1)]
    longest = max(range(len(cells)), key=lambda number: len(cells[number]))
    names[longest] = "text"
    short = [number for number in range(len(cells)) if number != longest]
    if len(short) == 1:
        names[short[0]] = "label"
    return names


# Number of rows, and files beside


def _estimate(files: Sequence[Path], rows: Sequence[Row]) -> int:
    """Estimate the number of rows from the size of the files. Compressed files count by their compressed size."""
    size = sum(len(str(value)) + len(name) + 6 for row in rows for name, value in row.values.items())
    stored = sum(file.stat().st_size for file in files)
    return max(len(rows) + 1, 1000 * round(len(rows) * stored / max(size, 1) / 1000))


_TRAINING = ("train", "training")

_EVALUATION = ("validation", "valid", "val", "dev", "eval", "evaluation", "test")
"""Words in names of evaluation files; `test` is last, so that validation files are preferred."""


def _words(file: PurePath) -> list[str]:
    name = file.name.lower().removesuffix("".join(kind_of(file)).lower())
    return [word for word in re.split(r"[^a-z]+", name) if word]


def _training_file(files: Sequence[Path]) -> Path | None:
    """Return the only training file of a folder, by name, if all other files are evaluation files."""
    training = [file for file in files if any(word in _TRAINING for word in _words(file))]
    others = [file for file in files if file not in training]
    is_split = all(any(word in _EVALUATION for word in _words(file)) for file in others)
    return training[0] if len(training) == 1 and is_split else None


def _beside(file: Path, rows: Sequence[Row], layout: Layout) -> Path | None:
    """Return the evaluation file that belongs to a training file; None if there is no certain match."""
    ending = kind_of(file)
    try:
        there = sorted(other for other in file.parent.iterdir() if other != file and kind_of(other) == ending)
    except OSError:
        return None
    stem = [word for word in _words(file) if word not in _TRAINING]
    for kind in _EVALUATION:
        called = [other for other in there if kind in _words(other) and other.is_file()]
        same = [other for other in called if [word for word in _words(other) if word != kind] == stem]
        for other in same:
            if _has_same_columns(other, rows, layout):
                return other
    return None


def _has_same_columns(file: Path, rows: Sequence[Row], layout: Layout) -> bool:
    try:
        found = read_files([file], _LINES, layout=layout).rows
    except DataError:
        return False
    known = {name for row in rows for name in row.values}
    return all(row.values.keys() <= known for row in found) and found[0].values.keys() == rows[0].values.keys()
