"""Rows of JSON files: one object per line, a list, or one object."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lora_ns.data.files.kind import FileKind
from lora_ns.data.files.layout import Layout
from lora_ns.data.files.lines import numbered_lines, too_long_line
from lora_ns.data.files.packing import BLOCK, decoded_text, not_utf8, opened_file
from lora_ns.data.rows import Outcome, Row, no_rows
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import (
    DEEPEST,
    LARGEST_OBJECT,
    LARGEST_ROW,
    MOST_COLUMNS,
    RefusedError,
    check_depth,
    finite,
    refusal,
)

# JSON


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise RefusedError(
            f"key `{shortened_value(name)}` appears twice in one object",
            "remove one of them: only the last would be read",
        )
    return values


def shortened_value(text: str, most: int = 40) -> str:
    """Shorten a long value of a row for a message."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=finite, parse_float=finite)


_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")


class JsonLines(FileKind):
    """One object per line."""

    suffixes = (".jsonl",)

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:  # noqa: ARG002 -- it leaves nothing open
        """Yield the objects."""
        return _json_lines(path)


class Json(FileKind):
    """A list, a table by columns, or one object."""

    suffixes = (".json",)
    whole = ("one list cannot be read row by row", "write it as .jsonl, or remove `streaming`")

    def rows(self, path: Path, layout: Layout) -> Iterator[Outcome]:  # noqa: ARG002 -- it leaves nothing open
        """Yield the objects of the list."""
        return _json(path)


def _json_lines(path: Path) -> Iterator[Outcome]:
    with opened_file(path) as file:
        for number, line in numbered_lines(path, file):
            if line is None:
                yield too_long_line(f"{path}:{number}")
            elif line.strip().removeprefix(codecs.BOM_UTF8):
                yield _json_line(f"{path}:{number}", line.rstrip(b"\r\n"))


def _json_line(where: str, line: bytes) -> Outcome:
    try:
        text = line.decode("utf-8-sig")
        values = _DECODER.decode(text)
        _check_depth(text, values)
    except UnicodeDecodeError as error:
        return not_utf8(where, error)
    except json.JSONDecodeError as error:
        remedy = "a file that is one list is called .json" if text.strip() == "[" else "each line is one JSON object"
        return _not_json(where, error, remedy)
    except (ValueError, RecursionError) as error:
        return _refusal(where, error)
    return _object(where, values, _has_surrogates(text))


def _not_json(where: str, error: json.JSONDecodeError, remedy: str) -> Problem:
    what = error.msg.lower().removesuffix(" at").removesuffix(" starting")
    if "control character" in what:
        remedy = "write a line break as `\\n`, a tab as `\\t`"
    return Problem(where, f"not JSON at column {error.colno}: {what}", remedy)


def _refusal(where: str, error: ValueError | RecursionError) -> Problem:
    """Explain why well-formed JSON is refused."""
    refused = refusal(error)
    return Problem(where, refused.what, refused.remedy)


def _check_depth(text: str, values: Any) -> None:
    if text.count("[") + text.count("{") > DEEPEST:  # most rows have so few brackets that no check is needed
        check_depth(values)


def _has_surrogates(text: str) -> bool:
    """True if a JSON text contains surrogates, paired or not."""
    return _HALF_CHARACTER.search(text) is not None


def _object(where: str, values: Any, has_surrogates: bool) -> Outcome:
    """Create a row from an object; `has_surrogates` says if its text contains surrogates."""
    if not isinstance(values, dict):
        return Problem(where, f"{_kind(values)} instead of an object", 'a row is `{"column": value, ...}`')
    if len(values) > MOST_COLUMNS:
        return Problem(
            where, f"{len(values):,} keys, but a row can have at most {MOST_COLUMNS:,}", "remove unused keys"
        )
    if has_surrogates:  # most surrogates are paired, which is fine
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
    with opened_file(path) as file:
        window = _Window(path, file)
        if window.peek() == "[":
            yield from _listed_rows(path, window)
            return
    text = decoded_text(path, LARGEST_OBJECT, "write it as .jsonl, or as one list, which lorans reads row by row")
    try:
        content = _DECODER.decode(text)
        check_depth(content)
    except json.JSONDecodeError as error:
        remedy = "a file with one object a line is called .jsonl" if error.msg == "Extra data" else _SYNTAX
        problem = _not_json(f"{path}:{error.lineno}", error, remedy) if text.strip() else no_rows(path)
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
    has_surrogates = _has_surrogates(text)
    del text
    for number, values in enumerate(content, start=1):
        yield _object(f"{path}, row {number}", values, has_surrogates)


_SYNTAX = "check the syntax"


def _listed_rows(path: Path, window: _Window) -> Iterator[Outcome]:
    """Yield the rows of a list, each parsed when it is needed."""
    window.advance()
    number, follows = 0, window.peek()
    while follows != "]":
        number += 1
        where = f"{path}, row {number}"
        values, text = window.value(where)
        yield _object(where, values, _has_surrogates(text))
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
    """A window on a JSON text, read from the file as needed."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._is_over = "", 0, False
        self._bytes, self._lines, self._columns = 0, 0, 0

    def peek(self) -> str:
        """Return the next character that is not white space, and move there; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._place)
            assert found, "matches nothing at least"
            self._place = found.end()
            if self._place < len(self._text) or self._is_over:
                return self._text[self._place : self._place + 1]
            self._read()

    def advance(self) -> None:
        """Skip a character."""
        self._place += 1

    def value(self, where: str) -> tuple[Any, str]:
        """Parse the value at the current position, and return it with its text. Raises `DataError`."""
        while True:
            try:
                values, end = _DECODER.raw_decode(self._text, self._place)
                text = self._text[self._place : end]
                if self._is_over or end < len(self._text):  # a number may continue in the next block
                    _check_depth(text, values)
                    self._place = end
                    return values, text
            except json.JSONDecodeError as error:
                if self._is_over:
                    raise self.fault(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise DataError(_refusal(where, error)) from None
            if len(self._text) - self._place > LARGEST_ROW:
                raise DataError(too_long_line(where, "a row"))
            self._read()

    def fault(self, what: str, place: int | None = None) -> DataError:
        """Create the error at a position of the window, by default the current one."""
        place = self._place if place is None else place
        error = json.JSONDecodeError(what, self._text, place)
        error.colno += self._columns if error.lineno == 1 else 0
        return DataError(_not_json(f"{self._path}:{self._lines + error.lineno}", error, _SYNTAX))

    def _read(self) -> None:
        """Drop the text before the position, and read a block at least as long as the rest."""
        lines = self._text.count("\n", 0, self._place)
        last = self._text.rfind("\n", 0, self._place)
        self._columns = self._place - last - 1 if lines else self._columns + self._place
        self._lines += lines
        self._text, self._place = self._text[self._place :], 0
        block = self._file.read(max(BLOCK, len(self._text)))
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
    """True if an object holds many rows by columns: cells by row number, or in lists of equal length."""
    values = list(content.values())
    if all(isinstance(value, dict) and value and all(key.isdecimal() for key in value) for value in values):
        return True
    lists = [value for value in values if isinstance(value, list)]
    is_even = len(lists) == len(values) > 1 and len({len(value) for value in lists}) == 1
    return is_even and not any(isinstance(cell, (dict, list)) for value in lists for cell in value)
