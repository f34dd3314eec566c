"""The first rows of data files, read before there is a recipe, and the files of evaluation rows beside them."""

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
"""Rows that are looked at."""


@dataclass(frozen=True)
class Sample:
    """The first rows of some files."""

    path: Path
    """The value of `dataset.path`, from the current folder."""
    rows: Sequence[Row]
    is_all: bool
    """True if there are no more rows."""
    count: int
    """Number of all rows; an estimate by the size of the files if these are not all."""
    keys: Mapping[str, Any]
    """Keys of `[dataset]` about the files, such as the names of their columns."""
    notes: tuple[str, ...] = ()
    """Ways of reading the files that they do not tell themselves."""
    evaluation: Path | None = None
    """The file beside it that is called as evaluation rows are, and has rows with the same columns."""


def look_at_files(name: str, asked: Mapping[str, Any]) -> Sample:
    """The first rows of a file, a folder or a pattern, relative to the current folder.

    Args:
        name: as `dataset.path` may name it.
        asked: keys of `[dataset]` that are settled already.

    Raises:
        DataError: if there is no such file, or it cannot be read.
    """
    files, path = find_files(Path(), name, "--data"), Path(name).expanduser()
    if len(files) > 1 and is_folder(path) and (training := _training_file(files)):
        files, path = [training], training
    keys, notes = _layout_keys(files[0], asked)
    layout = _layout(asked, keys)
    rows = read_files(files, MOST_ROWS + 1, asked.get("max_bad_rows", 0), layout).rows
    is_all, rows = len(rows) <= MOST_ROWS, rows[:MOST_ROWS]
    notes += [note for file in files if (kind := find_kind(file)) for note in kind.notes(file, layout)]
    evaluation = None
    if len(files) == 1 and not asked.keys() & {"eval_path", "eval_fraction"}:
        evaluation = _beside(files[0], rows, layout)
    count = len(rows) if is_all else _estimate(files, rows)
    return Sample(path, rows, is_all, count, keys, tuple(notes), evaluation)


def _layout(asked: Mapping[str, Any], keys: Mapping[str, Any]) -> Layout:
    both = {**keys, **asked}
    return Layout(both.get("column_names", ()), both.get("delimiter"), both.get("sample_by", "document"))


# Files whose kind leaves it open how they are read


def _layout_keys(file: Path, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys by which a table without a header is read, and what is told of them.

    Raises:
        DataError: if a text is a table whose columns nobody has named.
    """
    kind = find_kind(file)
    if kind is None or not kind.is_table or asked.keys() & {"column_names", "delimiter", "sample_by"}:
        return {}, []
    lines = _first_lines(file)
    if kind.is_plain_text:
        _check_no_table(file, lines)
        told = f'{file}: one text; `sample_by = "line"` in `[dataset]` makes a row of each line'
        return {}, [told] if len(lines) > 1 else []
    mark = TAB if kind_of(file)[0] == ".tsv" else sniff_delimiter(file)
    header = lines[0].split(mark) if lines else []
    if not _is_row(header):
        return {}, []
    names = _names(header)
    return {"column_names": names}, [f"{file}: the first line is a row, so the columns are named {', '.join(names)}"]


_LINES = 20


def _first_lines(file: Path) -> list[str]:
    try:
        with opened_file(file) as stream:
            found = [line.decode("utf-8-sig", errors="replace") for line in itertools.islice(stream, _LINES)]
    except OSError:
        return []  # who reads the rows tells why
    return [line.rstrip("\r\n") for line in found if line.strip()]


def _check_no_table(file: Path, lines: Sequence[str]) -> None:
    """Refuse a text of lines with as many tabs each. Raises `DataError`."""
    tabs = max((line.count(TAB) for line in lines), default=0)
    if tabs and sum(line.count(TAB) == tabs for line in lines) > 0.8 * len(lines) > 1:
        what = f"looks like a table of {tabs + 1} columns between tabs, and a {file.suffix} file is read as one text"
        remedy = 'name its columns by `--set \'dataset.column_names=["label", "text"]\'`, or rename it to .tsv'
        raise DataError(Problem(str(file), what, remedy))


_LONGEST_NAME = 60


def _is_row(header: Sequence[str]) -> bool:
    """Whether what should be the names of columns are values: numbers, or whole sentences."""
    return any(re.fullmatch(r"-?[\d.]+", cell) or len(cell) > _LONGEST_NAME for cell in header)


def _names(cells: Sequence[str]) -> list[str]:
    """Names of columns for the cells of a row: the longest is the text, a number that is alone the label."""
    names = [f"column{number}" for number in range(1, len(cells) + 1)]
    longest = max(range(len(cells)), key=lambda number: len(cells[number]))
    names[longest] = "text"
    short = [number for number in range(len(cells)) if number != longest]
    if len(short) == 1:
        names[short[0]] = "label"
    return names


# How many, and what is beside


def _estimate(files: Sequence[Path], rows: Sequence[Row]) -> int:
    """About how many rows there are, as the first ones take of their file. Packed ones are counted as they are."""
    size = sum(len(str(value)) + len(name) + 6 for row in rows for name, value in row.values.items())
    stored = sum(file.stat().st_size for file in files)
    return max(len(rows) + 1, 1000 * round(len(rows) * stored / max(size, 1) / 1000))


_TRAINING = ("train", "training")

_EVALUATION = ("validation", "valid", "val", "dev", "eval", "evaluation", "test")
"""Words in the names of files of evaluation rows; those of the last test come last."""


def _words(file: PurePath) -> list[str]:
    name = file.name.lower().removesuffix("".join(kind_of(file)).lower())
    return [word for word in re.split(r"[^a-z]+", name) if word]


def _training_file(files: Sequence[Path]) -> Path | None:
    """The one file of a folder that is called as training rows are, if the others are called as evaluation rows are."""
    training = [file for file in files if any(word in _TRAINING for word in _words(file))]
    others = [file for file in files if file not in training]
    is_split = all(any(word in _EVALUATION for word in _words(file)) for file in others)
    return training[0] if len(training) == 1 and is_split else None


def _beside(file: Path, rows: Sequence[Row], layout: Layout) -> Path | None:
    """The file of evaluation rows that belongs to a file of training rows; None if none is sure to."""
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
