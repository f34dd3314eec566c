"""Rows of tables: cells with commas, tabs or another mark between them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from lora_ns.data.files.kind import FileKind
from lora_ns.data.files.layout import Layout
from lora_ns.data.files.lines import decoded_line, numbered_lines, too_long_line
from lora_ns.data.files.packing import opened_file
from lora_ns.data.rows import Outcome, Row
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import LARGEST_ROW, MOST_COLUMNS

# Tables


class Csv(FileKind):
    """A table with commas, or with another mark that its first line shows."""

    suffixes = (".csv",)
    is_table = True

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """Its rows; a cell is a string, whatever is in it. With tabs it is read as a `.tsv` file is."""
        return _rows(path, layout, layout.delimiter or sniff_delimiter(path, layout.column_names))

    def notes(self, path: Path, layout: Layout) -> Sequence[str]:
        """That its cells are not separated by commas, as its first line shows."""
        mark = "," if layout.delimiter else sniff_delimiter(path, layout.column_names)
        if mark == ",":
            return ()
        shown = "tabs" if mark == TAB else f"`{mark}`"
        told = f"{path}: read with {shown} between its cells, as its first line has them"
        return (f"{told} (`delimiter` names another mark)",)

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:
        """That its first line may be a row, and its cells separated by another mark."""
        return "; ".join(filter(None, (_HEADER, other_delimiter(" ".join(names)), remedy)))


class Tsv(FileKind):
    """A table with tabs."""

    suffixes = (".tsv",)
    is_table = True

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """Its rows; a cell is a string, and quotes are part of it."""
        return tabbed_rows(path, layout)

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:  # noqa: ARG002 -- tabs are in no names
        """That its first line may be a row."""
        return "; ".join(filter(None, (_HEADER, remedy)))


def tabbed_rows(path: Path, layout: Layout) -> Iterator[Outcome]:
    """Rows of a table whose cells are separated by tabs, unless the recipe names another mark."""
    return _rows(path, layout, layout.delimiter or TAB)


def _rows(path: Path, layout: Layout, delimiter: str) -> Iterator[Outcome]:
    if delimiter == TAB:
        return _table(path, layout.column_names, "check the tabs", delimiter=TAB, quoting=csv.QUOTE_NONE)
    return _table(path, layout.column_names, "check the quotes", strict=True, delimiter=delimiter)


_HEADER = "the first line names the columns: if it is a row, name them by `column_names = [...]`"


TAB = "\t"


_LONGEST_HEADER = 1 << 16


def sniff_delimiter(path: Path, names: Sequence[str] = ()) -> str:
    """What separates the cells of a table by its first line: a comma, unless it has another mark and no comma.

    A tab is one wherever it stands, `;` and `|` are outside of quotes, where the line has only one of the two.

    Args:
        path: the file, packed or not.
        names: its columns, if it has no header: the line then has as many cells.
    """
    line = _first_line(path)
    tabs = line.count(TAB)
    is_tabbed = tabs + 1 == len(names) if names else "," not in line
    return TAB if tabs and is_tabbed else _sniff_mark(_QUOTED.sub("", line), names)


def _first_line(path: Path) -> str:
    with opened_file(path) as file:
        return file.readline(_LONGEST_HEADER).decode("utf-8-sig", errors="replace")


_QUOTED = re.compile(r'"[^"]*("|$)')


_MARKS = (";", "|")


def other_delimiter(header: str) -> str:
    """What to write where the cells of a table are separated by a mark that its header has beside commas; or nothing.

    Args:
        header: the first line, or what was read as the name of a column.
    """
    mark = next((mark for mark in _MARKS if mark in header), None)
    return f'if its cells are separated by `{mark}`, write `delimiter = "{mark}"`' if mark else ""


def _sniff_mark(line: str, names: Sequence[str]) -> str:
    """What separates the cells of a line, from which those in quotes were taken out."""
    counts = {mark: count for mark in _MARKS if (count := line.count(mark))}
    if len(counts) != 1 or "," in line:
        return ","
    ((mark, count),) = counts.items()
    return mark if not names or count + 1 == len(names) else ","


def _table(path: Path, names: Sequence[str], remedy: str, **dialect: Any) -> Iterator[Outcome]:
    """Rows under the names of the first record, or under those given; a first record of these is a header, too."""
    csv.field_size_limit(LARGEST_ROW)
    with opened_file(path) as file:
        lines = _RecordLines(path, file)
        records = _records(path, csv.reader(lines, **dialect), lines)
        where, first = next(records, ("", []))
        if names and first and first != list(names):
            records = itertools.chain([(where, first)], records)
        columns, told = (names, "`column_names`") if names else (first, "the header")
        check_names(where, columns)
        for where, cells in records:
            if len(cells) == len(columns):
                yield Row(where, dict(zip(columns, cells, strict=True)))
            else:
                what = f"{len(cells)} cell{'s' * (len(cells) > 1)}, and {told} has {len(columns)}"
                yield Problem(where, what, remedy)


def _records(path: Path, reader: Any, lines: _RecordLines) -> Iterator[tuple[str, list[str]]]:
    """The cells of each record that is not blank, and the line that it begins in."""
    first = 1
    try:
        for cells in reader:
            if cells:
                yield f"{path}:{first}", cells
            first = reader.line_num + 1
            lines.begin_record(first)
    except csv.Error as error:
        raise DataError(_not_csv(f"{path}:{first}", error, other_delimiter(_first_line(path)))) from None


def _not_csv(where: str, error: csv.Error, other: str) -> Problem:
    if "unexpected end" in str(error):
        return Problem(where, "not CSV: a quote is opened and never closed", "double a quote inside quotes")
    return Problem(where, f"not CSV: {error}", "; ".join(filter(None, ("double a quote inside quotes", other))))


class _RecordLines:
    """The lines of a table, of which those of one record are together no longer than a row may be."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._lines = path, self._read(file)
        self.begin_record(1)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def begin_record(self, first: int) -> None:
        """Count from here on what belongs to the record that begins in this line."""
        self._first, self._size = first, 0

    def _read(self, file: IO[bytes]) -> Iterator[str]:
        for number, line in numbered_lines(self._path, file):
            text = decoded_line(self._path, number, line)
            self._size += len(text)
            if self._size > LARGEST_ROW:
                raise DataError(too_long_line(f"{self._path}:{self._first}", "a record"))
            # The csv module wants a line that ends in a lone carriage return to end there.
            yield from io.StringIO(text, newline="") if "\r" in text.rstrip("\r\n") else (text,)


def check_names(where: str, names: Sequence[str]) -> None:
    """Refuse a header whose names are missing or there twice. Raises `DataError`."""
    if len(names) > MOST_COLUMNS:
        what = f"{len(names):,} columns, and a table has up to {MOST_COLUMNS:,}"
        raise DataError(Problem(where, what, "leave out what is not read"))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(Problem(where, f"column `{twice[0]}` is there twice", "rename one of them"))
