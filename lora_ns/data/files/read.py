"""Rows of local files, read one by one so that every problem has its place.

JSON lines are parsed line by line and never by a guessed column type: a value that changes its type in line 10,001 is
just a value.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from lora_ns.errors import DataError, MissingError, Problem
from lora_ns.formats import Format, RowFaultError
from lora_ns.reading import (
    DEEPEST,
    FREELY_UNPACKED,
    LARGEST_OBJECT,
    LARGEST_ROW,
    LARGEST_TEXT,
    MIB,
    MOST_COLUMNS,
    MOST_UNPACKED,
    NotAFileError,
    RefusedError,
    check_depth,
    decode,
    exists,
    finite,
    is_file,
    open_file,
    refusal,
    shown_size,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_PROBLEMS = 5
"""Problems of one file that are told; the rest is counted."""


@dataclass(frozen=True)
class Row:
    """One row and where it stands, such as `train.jsonl:17`."""

    where: str
    values: Mapping[str, Any]
    form: Format | None = field(default=None, compare=False)
    """How it is read, where the rows of several sources are read in several ways."""


Outcome = Row | Problem
Reader = Callable[[Path], Iterator[Outcome]]
"""Rows of a file, and problems of single rows; what spoils the whole file is raised as a `DataError`."""


@dataclass(frozen=True)
class Found:
    """The rows that were read, and the problems of those that were left out."""

    rows: list[Row]
    left_out: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """How the files were read, where their names do not say so."""


@dataclass(frozen=True)
class Layout:
    """How files are read whose kind leaves it open."""

    column_names: Sequence[str] = ()
    """Columns of tables, which have no header then; a `.txt` file becomes a table."""
    delimiter: str | None = None
    """What separates the cells of a table; found from the first line of a `.csv` if absent (`sniff_delimiter`)."""
    sample_by: Literal["document", "line"] = "document"
    """Whether a `.txt` file is one row, or each of its lines is."""


PLAIN = Layout()


def read_rows(path: Path, limit: int | None = None, layout: Layout = PLAIN) -> list[Row]:
    """All rows of a file, or the first `limit`.

    Raises:
        DataError: with the first problems of the file, or because it has no rows.
    """
    return read_files([path], limit, layout=layout).rows


def read_files(paths: Sequence[Path], limit: int | None = None, max_bad_rows: int = 0, layout: Layout = PLAIN) -> Found:
    """All rows of some files in their order, or the first `limit`; up to `max_bad_rows` broken ones are left out.

    Raises:
        DataError: with the first problems of the files, or because there are no rows.
    """
    if unfit := [problem for path in paths if (problem := _unfit(path))]:
        raise DataError(told(unfit))
    outcomes = (outcome for path in paths for outcome in _outcomes(path, layout))
    rows, problems = _gather(outcomes, limit, max(max_bad_rows, _MOST_GATHERED))
    if len(problems) > max_bad_rows or (problems and not rows):
        raise DataError(told(problems))
    if not rows:
        raise DataError(told([_no_rows(path) for path in paths]))
    return Found(rows, tuple(problems))


def each_row(paths: Sequence[Path], layout: Layout = PLAIN) -> Iterator[Outcome]:
    """The rows of some files one by one, and the problems of those that cannot be read; nothing is kept.

    Raises:
        DataError: because of a file that cannot be read at all, or is one list, which cannot be read in parts.
    """
    unfit = [problem for path in paths if (problem := _unfit(path) or _whole(path))]
    if unfit:
        raise DataError(told(unfit))
    for path in paths:
        yield from _outcomes(path, layout)


def _whole(path: Path) -> Problem | None:
    if kind_of(path)[0] != ".json":
        return None
    remedy = "write it as .jsonl, or remove `streaming`"
    return Problem(str(path), "one list cannot be read row by row", remedy)


def told_left_out(problems: Sequence[Problem]) -> str:
    """How many rows were left out because they cannot be read, and where to look."""
    return f"{len(problems):,} left out that cannot be read, the first at {problems[0].where}"


def kind_of(path: PurePath) -> tuple[str, str]:
    """Kind of a file by its name and how it is packed, such as `.jsonl` and `.gz`; in lower case."""
    name = path.name.lower()
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    return PurePath(name.removesuffix(packing)).suffix, packing


def is_table(path: PurePath) -> bool:
    """Whether a file of this name may be a table without a header."""
    return kind_of(path)[0] in TABLES


def is_known(path: PurePath) -> bool:
    """Whether there is a reader for a file of this name."""
    kind, packing = kind_of(path)
    return kind in (TEXT_READERS if packing else READERS)


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
    """What `read` makes of the rows, and the problems of those for which it raised `RowFaultError`.

    Raises:
        DataError: with the problems so far, at a row after which no other is tried.
    """
    found: list[T] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            found.append(read(row))
        except RowFaultError as fault:
            problems.append(Problem(row.where, fault.what, fault.remedy, fault.code))
            if fault.is_last:
                raise DataError(told(problems)) from None
    return found, problems


def told(problems: list[Problem]) -> list[Problem]:
    """The first few of many problems, and how many more there are."""
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], Problem("", f"and {len(problems) - MOST_PROBLEMS:,} more like these")]


def _unfit(path: Path) -> Problem | None:
    """Why a path cannot be read at all, as far as can be told without opening it."""
    if not is_known(path):
        return Problem(str(path), f"cannot read `{''.join(kind_of(path)) or path.name}`", f"known: {KNOWN}")
    if not is_file(path):
        return Problem(str(path), "is not a file" if exists(path) else "no such file", "check the path")
    return None


def _no_rows(path: Path) -> Problem:
    return Problem(str(path), "no rows", "put one row into it at least")


_MOST_GATHERED = 10_000
"""Problems after which a file is read no further, if so many are not allowed."""


def _gather(outcomes: Iterator[Outcome], limit: int | None, most: int) -> tuple[list[Row], list[Problem]]:
    """The rows and the problems, up to so many of these.

    A file that is spoilt ends them, and is told after the problems before it.
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
    except _DamagedError:
        raise  # the rows of a damaged file say nothing
    except DataError as error:
        raise DataError(told([*problems, *error.problems])) from None
    return rows, problems


def _outcomes(path: Path, layout: Layout) -> Iterator[Outcome]:
    kind = kind_of(path)[0]
    is_tabular = kind != ".txt" or layout.column_names or layout.delimiter
    try:
        if kind in TABLES and is_tabular:
            yield from TABLES[kind](path, layout)
        elif kind == ".txt" and layout.sample_by == "line":
            yield from _text_lines(path)
        else:
            yield from READERS[kind](path)
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read: {error.strerror or error}")) from None


# Files, packed or not


class _DamagedError(DataError):
    """A packed file that cannot be unpacked to its end."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked while they are read."""
    packing = kind_of(path)[1]
    with _file(path) as file:
        try:
            yield _unpacked(path, file) if packing else file
        except EOFError:
            what = f"cut short, its {packing} has no end"
            raise _DamagedError(Problem(str(path), what, "fetch or pack it again")) from None
        except (gzip.BadGzipFile, zlib.error, _ZstdError):
            raise _DamagedError(Problem(str(path), f"damaged, or not {packing}", "fetch or pack it again")) from None


@contextlib.contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open_file(path) as file:
            yield file
    except NotAFileError as fault:
        raise DataError(Problem(str(path), fault.what)) from None


def _unpacked(path: Path, file: IO[bytes]) -> IO[bytes]:
    """What a packed file has in it, unless that is out of all proportion: a few bytes can stand for a full disk."""
    unpacked = PACKINGS[kind_of(path)[1]](path, file)

    def blocks() -> Iterator[bytes]:
        size = 0
        while block := unpacked.read(_BLOCK):
            size += len(block)
            if size > max(FREELY_UNPACKED, MOST_UNPACKED * file.tell()):
                what = f"unpacks to more than {MOST_UNPACKED} times its size"
                raise _DamagedError(Problem(str(path), what, "unpack it, and look at what is in it"))
            yield block

    return io.BufferedReader(_Blocks(blocks()), _BLOCK)


def _gzip(_: Path, file: IO[bytes]) -> IO[bytes]:
    return io.BufferedReader(gzip.GzipFile(fileobj=file), _BLOCK)


def _zstd(path: Path, file: IO[bytes]) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise MissingError(Problem(str(path), "reading .zst needs zstandard", "`pip install zstandard`")) from None

    unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)

    def blocks() -> Iterator[bytes]:
        """Unpacked blocks; zstandard's own reader would take a file that is cut short for a whole one."""
        frame = None
        while block := file.read(_PACKED_BLOCK):
            while block:
                if frame is None or frame.eof:
                    frame = unpacker.decompressobj()
                try:
                    yield frame.decompress(block)
                except zstandard.ZstdError as error:
                    raise _ZstdError(str(error)) from None
                block = frame.unused_data
        if frame is not None and not frame.eof:
            raise EOFError

    return io.BufferedReader(_Blocks(blocks()), _BLOCK)


_BLOCK = 1 << 16
_PACKED_BLOCK = 1 << 11
"""Bytes that are unpacked at once, of which each can stand for some ten thousand."""
_LARGEST_WINDOW = 1 << 31
"""What `zstd --ultra --long=31` packs with; zstandard would stop at 128 MB."""


class _ZstdError(Exception):
    """What zstandard cannot unpack; its own error has no name before it is imported."""


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        target = memoryview(buffer)
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _decoded(path: Path, most: int, remedy: str) -> str:
    """All of a file as text."""
    parts, size = [], 0
    with _opened(path) as file:
        while part := file.read(_BLOCK):
            parts.append(part)
            size += len(part)
            if size > most:
                raise DataError(Problem(str(path), f"is larger than {shown_size(most)}", remedy))
    return decode(b"".join(parts), str(path), DataError)


def _numbered(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file and their numbers from 1; None for one that is too long, of which nothing is kept.

    Raises:
        DataError: if such a line does not end soon.
    """
    for number in itertools.count(1):
        line = file.readline(LARGEST_ROW + 2)
        if not line:
            return
        too_long = len(line.rstrip(b"\r\n")) > LARGEST_ROW
        if too_long and not line.endswith(b"\n") and not _skip_line(file):
            raise DataError(_too_long(f"{path}:{number}"))
        yield number, None if too_long else line


_MOST_SKIPPED = 256 * MIB


def _skip_line(file: IO[bytes]) -> bool:
    """Read to the end of a line; whether it has one."""
    for _ in range(_MOST_SKIPPED // _BLOCK):
        part = file.readline(_BLOCK)
        if not part or part.endswith(b"\n"):
            return True
    return False


def _too_long(where: str, what: str = "a line") -> Problem:
    return Problem(where, f"{what} is longer than {shown_size(LARGEST_ROW)}", "split it, or leave it out")


def _decoded_line(path: Path, number: int, line: bytes | None) -> str:
    """A line as text, without the mark of the first one. Raises `DataError`."""
    if line is None:
        raise DataError(_too_long(f"{path}:{number}"))
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(f"{path}:{number}", error)) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> Problem:
    return Problem(where, f"not UTF-8 at byte {error.start + 1} of the line", "save the file as UTF-8")


# JSON


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise RefusedError(
            f"key `{_short(name)}` is there twice in one object", "remove one of them: only the last would be read"
        )
    return values


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=finite, parse_float=finite)
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


def _json_lines(path: Path) -> Iterator[Outcome]:
    with _opened(path) as file:
        for number, line in _numbered(path, file):
            if line is None:
                yield _too_long(f"{path}:{number}")
            elif line.strip().removeprefix(codecs.BOM_UTF8):
                yield _json_line(f"{path}:{number}", line.rstrip(b"\r\n"))


def _json_line(where: str, line: bytes) -> Outcome:
    try:
        text = line.decode("utf-8-sig")
        values = _DECODER.decode(text)
        _check_depth(text, values)
    except UnicodeDecodeError as error:
        return _not_utf8(where, error)
    except json.JSONDecodeError as error:
        remedy = "a file that is one list is called .json" if text.strip() == "[" else "each line is one JSON object"
        return _not_json(where, error, remedy)
    except (ValueError, RecursionError) as error:
        return _refusal(where, error)
    return _object(where, values, _has_halves(text))


def _not_json(where: str, error: json.JSONDecodeError, remedy: str) -> Problem:
    what = error.msg.lower().removesuffix(" at").removesuffix(" starting")
    if "control character" in what:
        remedy = "write a line break as `\\n`, a tab as `\\t`"
    return Problem(where, f"not JSON at column {error.colno}: {what}", remedy)


def _refusal(where: str, error: ValueError | RecursionError) -> Problem:
    """Why JSON that is well-formed is not read."""
    refused = refusal(error)
    return Problem(where, refused.what, refused.remedy)


def _check_depth(text: str, values: Any) -> None:
    if text.count("[") + text.count("{") > DEEPEST:  # most rows have so few that they need not be looked at
        check_depth(values)


def _has_halves(text: str) -> bool:
    """Whether a JSON text writes characters in two halves, or halves of them."""
    return _HALF_CHARACTER.search(text) is not None


def _object(where: str, values: Any, has_halves: bool) -> Outcome:
    """A row, if the values are those of one; `has_halves` is that of the text they were read from."""
    if not isinstance(values, dict):
        return Problem(where, f"{_kind(values)} instead of an object", 'a row is `{"column": value, ...}`')
    if len(values) > MOST_COLUMNS:
        return Problem(
            where, f"{len(values):,} keys, and a row has up to {MOST_COLUMNS:,}", "leave out what is not read"
        )
    if has_halves:  # most of these are halves that found each other
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):x}"
            return Problem(where, f"`{half}` is half a character", "write both halves, or the character itself")
    return Row(where, values)


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _json(path: Path) -> Iterator[Outcome]:
    with _opened(path) as file:
        window = _Window(path, file)
        if window.peek() == "[":
            yield from _listed_rows(path, window)
            return
    text = _decoded(path, LARGEST_OBJECT, "write it as .jsonl, or as one list, which are read row by row")
    try:
        content = _DECODER.decode(text)
        check_depth(content)
    except json.JSONDecodeError as error:
        remedy = "a file with one object a line is called .jsonl" if error.msg == "Extra data" else _SYNTAX
        problem = _not_json(f"{path}:{error.lineno}", error, remedy) if text.strip() else _no_rows(path)
        raise DataError(problem) from None
    except (ValueError, RecursionError) as error:
        raise DataError(_refusal(str(path), error)) from None
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if isinstance(content, dict) and content and not _is_table_by_columns(content):
        content = [content]  # one row
    if not isinstance(content, list):
        what = f"{_kind(content)} instead of a list of rows"
        raise DataError(Problem(str(path), what, 'write `[{"column": value, ...}, ...]`'))
    has_halves = _has_halves(text)
    del text
    for number, values in enumerate(content, start=1):
        yield _object(f"{path}, row {number}", values, has_halves)


_SYNTAX = "check the syntax"


def _listed_rows(path: Path, window: _Window) -> Iterator[Outcome]:
    """The rows of a list, each parsed when its turn comes."""
    window.advance()
    number, follows = 0, window.peek()
    while follows != "]":
        number += 1
        where = f"{path}, row {number}"
        values, text = window.value(where)
        yield _object(where, values, _has_halves(text))
        follows = window.peek()
        if follows == ",":
            window.advance()
            window.peek()
        elif follows != "]":
            raise window.fault("Expecting ',' delimiter")
    window.advance()
    if window.peek():
        raise window.fault("Extra data")


class _Window:
    """A part of a JSON text that is read from a file as far as it is needed."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._is_over = "", 0, False
        self._bytes, self._lines, self._columns = 0, 0, 0

    def peek(self) -> str:
        """The next character that is no white space, which the window then begins at; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._place)
            assert found, "matches nothing at least"
            self._place = found.end()
            if self._place < len(self._text) or self._is_over:
                return self._text[self._place : self._place + 1]
            self._read()

    def advance(self) -> None:
        """Go past a character."""
        self._place += 1

    def value(self, where: str) -> tuple[Any, str]:
        """The value that begins here, and its text. Raises `DataError`."""
        while True:
            try:
                values, end = _DECODER.raw_decode(self._text, self._place)
                text = self._text[self._place : end]
                if self._is_over or end < len(self._text):  # what a number ends with may come yet
                    _check_depth(text, values)
                    self._place = end
                    return values, text
            except json.JSONDecodeError as error:
                if self._is_over:
                    raise self.fault(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise DataError(_refusal(where, error)) from None
            if len(self._text) - self._place > LARGEST_ROW:
                raise DataError(_too_long(where, "a row"))
            self._read()

    def fault(self, what: str, place: int | None = None) -> DataError:
        """What is wrong at a place of the window, or where it is now."""
        place = self._place if place is None else place
        error = json.JSONDecodeError(what, self._text, place)
        error.colno += self._columns if error.lineno == 1 else 0
        return DataError(_not_json(f"{self._path}:{self._lines + error.lineno}", error, _SYNTAX))

    def _read(self) -> None:
        """Let go of what is behind, and read as much again as there is before, at least."""
        lines = self._text.count("\n", 0, self._place)
        last = self._text.rfind("\n", 0, self._place)
        self._columns = self._place - last - 1 if lines else self._columns + self._place
        self._lines += lines
        self._text, self._place = self._text[self._place :], 0
        block = self._file.read(max(_BLOCK, len(self._text)))
        self._is_over = not block
        before = self._bytes - len(self._decoder.getstate()[0])
        self._bytes += len(block)
        try:
            self._text += self._decoder.decode(block, final=self._is_over)
        except UnicodeDecodeError as error:
            what = f"not UTF-8 at byte {before + error.start + 1}"
            raise DataError(Problem(str(self._path), what, "save the file as UTF-8")) from None


_SPACE = re.compile(r"[ \t\n\r]*")


def _is_table_by_columns(content: Mapping[str, Any]) -> bool:
    """Whether an object has the cells of many rows: by the numbers of the rows, or in lists of one length."""
    values = list(content.values())
    if all(isinstance(value, dict) and value and all(key.isdecimal() for key in value) for value in values):
        return True
    lists = [value for value in values if isinstance(value, list)]
    is_even = len(lists) == len(values) > 1 and len({len(value) for value in lists}) == 1
    return is_even and not any(isinstance(cell, (dict, list)) for value in lists for cell in value)


# Tables


def _csv(path: Path, layout: Layout = PLAIN) -> Iterator[Outcome]:
    """Rows of a table; a cell is a string, whatever is in it. With tabs it is read as a `.tsv` file is."""
    delimiter = layout.delimiter or sniff_delimiter(path, layout.column_names)
    if delimiter == TAB:
        return _tsv(path, layout)
    return _table(path, layout.column_names, "check the quotes", strict=True, delimiter=delimiter)


def _tsv(path: Path, layout: Layout = PLAIN) -> Iterator[Outcome]:
    """Rows of a table with tabs; a cell is a string, and quotes are part of it."""
    delimiter = layout.delimiter or TAB
    if delimiter != TAB:
        return _csv(path, layout)
    return _table(path, layout.column_names, "check the tabs", delimiter=TAB, quoting=csv.QUOTE_NONE)


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
    with _opened(path) as file:
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
    with _opened(path) as file:
        lines = _RecordLines(path, file)
        records = _records(path, csv.reader(lines, **dialect), lines)
        where, first = next(records, ("", []))
        if names and first and first != list(names):
            records = itertools.chain([(where, first)], records)
        columns, told = (names, "`column_names`") if names else (first, "the header")
        _check_names(where, columns)
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
        for number, line in _numbered(self._path, file):
            text = _decoded_line(self._path, number, line)
            self._size += len(text)
            if self._size > LARGEST_ROW:
                raise DataError(_too_long(f"{self._path}:{self._first}", "a record"))
            # The csv module wants a line that ends in a lone carriage return to end there.
            yield from io.StringIO(text, newline="") if "\r" in text.rstrip("\r\n") else (text,)


def _check_names(where: str, names: Sequence[str]) -> None:
    if len(names) > MOST_COLUMNS:
        what = f"{len(names):,} columns, and a table has up to {MOST_COLUMNS:,}"
        raise DataError(Problem(where, what, "leave out what is not read"))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(Problem(where, f"column `{twice[0]}` is there twice", "rename one of them"))


# One sentence a row


def _conll(path: Path) -> Iterator[Outcome]:
    """Sentences of CoNLL: a word a line, first its token and last its tag, and a blank line after the last word."""
    width = 0
    words: list[tuple[str, str]] = []
    first, broken, size = 1, False, 0
    with _opened(path) as file:
        for number, line in itertools.chain(_numbered(path, file), [(0, b"")]):
            text = _conll_line(path, number, line)
            size = 0 if not words else size + len(text)
            if size > LARGEST_ROW:
                raise DataError(_too_long(f"{path}:{first}", "a sentence"))
            if not text or text.startswith(_DOCUMENT):
                if words and not broken:
                    yield Row(f"{path}:{first}", {"tokens": [word for word, _ in words], "tags": [t for _, t in words]})
                words, broken = [], False
                continue
            if not words and not broken and _is_comment(text):
                continue
            cells = _conll_cells(text)
            width = width or len(cells)
            problem = _conll_problem(cells, width)
            if problem and not broken:
                yield Problem(f"{path}:{number}", *problem)
            broken = broken or problem is not None
            first = first if words else number
            words.append((cells[0], cells[-1]))


_DOCUMENT = "-DOCSTART-"
_TAG = re.compile(r"O|[BIESLU]-\S+")


def _conll_line(path: Path, number: int, line: bytes | None) -> str:
    text = _decoded_line(path, number, line)
    return text.strip(" \r\n") if text.strip() else ""


def _conll_cells(text: str) -> list[str]:
    """The columns of a line: between tabs if it has one, otherwise between spaces; other white space is text."""
    if "\t" in text:
        return [cell.strip(" ") for cell in text.split("\t")]
    return [cell for cell in text.split(" ") if cell]


def _is_comment(text: str) -> bool:
    """Whether a line before a sentence is a remark, such as `# id = 7`, rather than the word `#` with its tag."""
    cells = _conll_cells(text)
    return text.startswith("#") and "\t" not in text and not (len(cells) > 1 and _TAG.fullmatch(cells[-1]))


def _conll_problem(cells: Sequence[str], width: int) -> tuple[str, str] | None:
    """What is wrong with a line, and what to do."""
    if len(cells) == 1:
        return f"`{_short(cells[0])}` has no tag", "a line is a word, a tab or space, and its tag"
    if len(cells) != width:
        return f"{len(cells)} columns, and the first line has {width}", "a blank line ends a sentence"
    if not cells[0]:
        return "a tag without a word", "take the line out, or put a blank line there"
    if not cells[-1]:
        return f"`{_short(cells[0])}` has an empty tag", "a word outside of everything has the tag O"
    return None


# One row a file


def _text(path: Path) -> Iterator[Outcome]:
    """The whole file as one row."""
    try:
        content = _decoded(path, LARGEST_TEXT, "split it")
    except _DamagedError:
        raise
    except DataError as error:
        yield from error.problems  # a row that cannot be read
    else:
        if content.strip():
            yield Row(str(path), {"text": content})


def read_prompts(path: Path) -> list[str]:
    """The lines of a `.txt` file, blank ones too, read as those of a data set are; blank ones at the end are none.

    Raises:
        DataError: because of the first line that cannot be read.
    """
    if problem := _unfit(path):
        raise DataError(problem)
    with _opened(path) as file:
        return prompts_of(path, file)


def prompts_of(path: Path, file: IO[bytes]) -> list[str]:
    """The same of a file that is open; `path` is what messages call it."""
    texts: list[str] = []
    size = 0
    for number, line in _numbered(path, file):
        texts.append(_without_end(_decoded_line(path, number, line)))
        size += len(texts[-1]) + 50  # a text of Python takes so much beside its characters
        if size > LARGEST_TEXT:
            raise DataError(Problem(str(path), f"is larger than {shown_size(LARGEST_TEXT)}", "split it"))
    while texts and not texts[-1].strip():
        texts.pop()
    return texts


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _text_lines(path: Path) -> Iterator[Outcome]:
    """Each line as a row; one that is blank is none."""
    with _opened(path) as file:
        for number, line in _numbered(path, file):
            try:
                text = _without_end(_decoded_line(path, number, line))
            except DataError as error:
                yield from error.problems
            else:
                if text.strip():
                    yield Row(f"{path}:{number}", {"text": text})


# Arrow


def _parquet(path: Path) -> Iterator[Outcome]:
    with _arrow_errors(path, "Parquet"):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > max(MIB, MOST_UNPACKED * path.stat().st_size):
                what = f"{file.metadata.num_rows:,} rows in {path.stat().st_size:,} bytes"
                raise DataError(Problem(str(path), what, "write it again with the rows that are meant"))
            yield from _batches(path, file.schema_arrow, file.iter_batches(_ROWS_AT_ONCE))


_ROWS_AT_ONCE = 1024
"""Rows of a Parquet file that are there as Python's own values at once."""


def _arrow(path: Path) -> Iterator[Outcome]:
    """Batches of an Arrow file or stream."""
    with _arrow_errors(path, "Arrow"):
        import pyarrow

        with pyarrow.OSFile(str(path)) as file:
            is_stream = file.read(len(_ARROW_FILE)) != _ARROW_FILE
            file.seek(0)
            if is_stream:
                stream = pyarrow.ipc.open_stream(file)
                yield from _batches(path, stream.schema, stream)
            else:
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
                yield from _batches(path, reader.schema, batches)


_ARROW_FILE = b"ARROW1"
"""How an Arrow file begins; a stream has no mark."""


@contextlib.contextmanager
def _arrow_errors(path: Path, name: str) -> Iterator[None]:
    try:
        import pyarrow
    except ImportError:
        raise MissingError(Problem(str(path), f"reading {name} needs pyarrow", "`pip install pyarrow`")) from None
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's, not pyarrow's
        what = f"damaged, or not {name}: {_first_sentence(error)}"
        raise DataError(Problem(str(path), what, "fetch or write it again")) from None
    except (ValueError, OverflowError) as error:
        what = f"a value cannot be read: {_first_sentence(error)}"
        raise DataError(Problem(str(path), what, "write it as a string")) from None


def _first_sentence(error: Exception) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".")
    return _short(f"{text[:1].lower()}{text[1:]}", 100)


def _batches(path: Path, schema: Any, batches: Any) -> Iterator[Outcome]:
    _check_names(str(path), schema.names)
    nested = [field.name for field in schema if field.type.num_fields]
    number = 0
    for batch in batches:
        if batch.nbytes > LARGEST_TEXT:
            what = f"rows of more than {shown_size(LARGEST_TEXT)} at once"
            raise DataError(Problem(f"{path}, row {number + 1}", what, "write fewer or shorter rows at once"))
        batch.validate(full=True)  # offsets that point beyond the data would end the process
        for values in batch.to_pylist():
            number += 1
            yield Row(f"{path}, row {number}", {**values, **{name: unpadded(values[name]) for name in nested}})


def unpadded(value: Any) -> Any:
    """A value of an Arrow table without the keys that are null.

    Arrow gives every object of a column the keys of all of them, so that a null key is one that the object never had:
    the arguments of another tool, for instance. A null that was meant cannot be told from it.
    """
    if isinstance(value, dict):
        return {key: unpadded(part) for key, part in value.items() if part is not None}
    return [unpadded(part) for part in value] if isinstance(value, list) else value


TEXT_READERS: Mapping[str, Reader] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _text,
    ".conll": _conll,
    ".iob": _conll,
    ".bio": _conll,
}
"""Kind of a file that may be packed to its reader."""
READERS: Mapping[str, Reader] = {**TEXT_READERS, ".parquet": _parquet, ".arrow": _arrow}
"""File kind to reader."""
TABLES: Mapping[str, Callable[[Path, Layout], Iterator[Outcome]]] = {".csv": _csv, ".tsv": _tsv, ".txt": _tsv}
"""Kind of a file that may be a table to its reader."""
PACKINGS: Mapping[str, Callable[[Path, IO[bytes]], IO[bytes]]] = {".gz": _gzip, ".zst": _zstd}
"""How a file is packed to what unpacks it."""
KNOWN = f"{', '.join(TEXT_READERS)}, each also with .gz or .zst, .parquet, .arrow"
