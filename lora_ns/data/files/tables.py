"""Rows of tables: cells separated by commas, tabs or another delimiter."""

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
    """A table with commas, or with another delimiter that its first line shows."""

    suffixes = (".csv",)
    is_table = True

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """Yield its rows; every cell is a string. With tabs it is read like a `.tsv` file."""
        return _rows(path, layout, layout.delimiter or sniff_delimiter(path, layout.column_names))

    def notes(self, path: Path, layout: Layout) -> Sequence[str]:
        """Return a note if the cells are not separated by commas."""
        mark = "," if layout.delimiter else sniff_delimiter(path, layout.column_names)
        if mark == ",":
            return ()
        shown = "tabs" if mark == TAB else f"`{mark}`"
        text = f"{path}: read with {shown} as the delimiter, as in its first line"
        return (f"{text} (set `delimiter` to change it)",)

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:
        """Suggest that the first line may be a row, or that the delimiter is another one."""
        return "; ".join(filter(None, (_HEADER, other_delimiter(" ".join(names)), remedy)))


class Tsv(FileKind):
    """A table with tabs."""

    suffixes = (".tsv",)
    is_table = True

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:
        """Yield its rows; every cell is a string, and quotes are part of it."""
        return tabbed_rows(path, layout)

    def column_remedy(self, names: Sequence[str], remedy: str) -> str:  # noqa: ARG002 -- tabs are in no names
        """Suggest that the first line may be a row."""
        return "; ".join(filter(None, (_HEADER, remedy)))


def tabbed_rows(path: Path, layout: Layout) -> Iterator[Outcome]:
    """Yield the rows of a table whose delimiter is a tab, unless the recipe sets another one."""
    return _rows(path, layout, layout.delimiter or TAB)


def _rows(path: Path, layout: Layout, delimiter: str) -> Iterator[Outcome]:
    if delimiter == TAB:
        return _table(path, layout.column_names, "check the tabs", delimiter=TAB, quoting=csv.QUOTE_NONE)
    return _table(path, layout.column_names, "check the quotes", strict=True, delimiter=delimiter)


_HEADER = "the first line is the header: if it is a row, write `column_names = [...]`"


TAB = "\t"


_LONGEST_HEADER = 1 << 16


def sniff_delimiter(path: Path, names: Sequence[str] = ()) -> str:
    """Detect the delimiter of a table from its first line: a comma, unless the line has another one and no comma.

    Tabs count anywhere, `;` and `|` outside of quotes and only if the line does not have both.

    Args:
        path: the file, compressed or not.
        names: its columns, if it has no header. The line then must have as many cells.
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
    """Suggest a delimiter for a table whose header contains `;` or `|` beside commas; empty if there is none.

    Args:
        header: the first line, or the text that was read as a column name.
    """
    mark = next((mark for mark in _MARKS if mark in header), None)
    return f'if its cells are separated by `{mark}`, write `delimiter = "{mark}"`' if mark else ""


def _sniff_mark(line: str, names: Sequence[str]) -> str:
    """Detect the delimiter of a line from which quoted cells were removed."""
    counts = {mark: count for mark in _MARKS if (count := line.count(mark))}
    if len(counts) != 1 or "," in line:
        return ","
    ((mark, count),) = counts.items()
    return mark if not names or count + 1 == len(names) else ","


def _table(path: Path, names: Sequence[str], remedy: str, **dialect: Any) -> Iterator[Outcome]:
    """Yield rows under the header or the given names; a first record that equals the given names is a header."""
    csv.field_size_limit(LARGEST_ROW)
    with opened_file(path) as file:
        lines = _RecordLines(path, file)
        records = _records(path, csv.reader(lines, **dialect), lines)
        where, first = next(records, ("", []))
        if names and first and first != list(names):
            records = itertools.chain([(where, first)], records)
        columns, origin = (names, "`column_names`") if names else (first, "the header")
        check_names(where, columns)
        for where, cells in records:
            if len(cells) == len(columns):
                yield Row(where, dict(zip(columns, cells, strict=True)))
            else:
                what = f"{len(cells)} cell{'s' * (len(cells) > 1)}, but {origin} has {len(columns)}"
                yield Problem(where, what, remedy)


def _records(path: Path, reader: Any, lines: _RecordLines) -> Iterator[tuple[str, list[str]]]:
    """Yield the cells of each record that is not blank, with the line where it starts."""
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
    """The lines of a table; those of one record must not exceed the length limit of a row."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._lines = path, self._read(file)
        self.begin_record(1)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def begin_record(self, first: int) -> None:
        """Start counting the size of a record that starts in this line."""
        self._first, self._size = first, 0

    def _read(self, file: IO[bytes]) -> Iterator[str]:
        for number, line in numbered_lines(self._path, file):
            text = decoded_line(self._path, number, line)
            self._size += len(text)
            if self._size > LARGEST_ROW:
                raise DataError(too_long_line(f"{self._path}:{self._first}", "a record"))
            # The csv module expects a line to end at a lone carriage return.
            yield from io.StringIO(text, newline="") if "\r" in text.rstrip("\r\n") else (text,)


def check_names(where: str, names: Sequence[str]) -> None:
    """Refuse a header with too many or duplicate names. Raises `DataError`."""
    if len(names) > MOST_COLUMNS:
        what = f"{len(names):,} columns, but a table can have at most {MOST_COLUMNS:,}"
        raise DataError(Problem(where, what, "remove unused columns"))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(Problem(where, f"column `{twice[0]}` appears twice", "rename one of them"))
