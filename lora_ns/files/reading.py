"""Reading of user files as bytes, text, JSON and TOML, with limits on size, depth and kind of file.

Only regular files are read, because a pipe may never end and a device never does. Every fault is raised as one
`Problem` with its place, in the error class that the caller chooses.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.safety.deadline import OverrunError, bounded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOMLDecodeError = tomllib.TOMLDecodeError


KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


LARGEST_RECIPE = MIB
"""Maximum bytes of a recipe or a chat template."""


LARGEST_YAML = 64 * KIB
"""Maximum bytes of a YAML file. Parsing is slow, and accelerate's files have one or two thousand bytes."""


LARGEST_JSON = 64 * MIB
"""Maximum bytes of a JSON file that is no dataset, such as a configuration or a manifest."""


LARGEST_ROW = 16 * MIB
"""Maximum bytes of a row, of a line of a data file, and of standard input."""


LARGEST_TEXT = 256 * MIB
"""Maximum bytes of a `.txt` file that is one row, and of all prompts together."""


LARGEST_LIST = GIB
"""Maximum bytes of a file that grows with the run: metrics and trainer state."""


LARGEST_OBJECT = 32 * MIB
"""Maximum bytes of a `.json` data file that is one object. It is parsed as a whole, which may take 25 times as much
memory."""


MOST_COLUMNS = 10_000
"""Maximum columns of a table, or keys of a row."""


MOST_UNPACKED, FREELY_UNPACKED = 200, 4 * MIB
"""Maximum expansion factor of a compressed file, and the unpacked bytes up to which it does not apply."""


DEEPEST = 100
"""Maximum nesting depth of lists and tables."""


TOO_DEEP = "cannot be read: nested too deeply"


SECONDS = 3.0
"""Maximum seconds to parse a document."""


class NotAFileError(Exception):
    """A path cannot be opened as a file. The error says if it is missing or a folder."""

    def __init__(self, what: str, is_missing: bool = False, is_folder: bool = False) -> None:
        super().__init__(what)
        self.what, self.is_missing, self.is_folder = what, is_missing, is_folder


# Paths


def is_file(path: Path) -> bool:
    """True for a regular file; False also for an invalid path, such as one that is too long."""
    return _safely(path.is_file)


def is_folder(path: Path) -> bool:
    """True for a folder; False also for an invalid path."""
    return _safely(path.is_dir)


def exists(path: Path) -> bool:
    """True if a path exists; False also for an invalid path."""
    return _safely(path.exists)


def is_within(path: Path, folder: Path) -> bool:
    """True if a path is a folder or inside it, before or after its links are resolved."""
    return any(name.is_relative_to(whole) for name in _names(path) for whole in _names(folder))


def _names(path: Path) -> tuple[Path, Path]:
    """A path with only its folder resolved, and fully resolved. `Path.resolve` would raise for a link to itself."""
    return Path(os.path.realpath(path.absolute().parent)) / path.name, Path(os.path.realpath(path))


def _safely(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError):  # too long, contains NUL, no permission
        return False


# Bytes


@contextlib.contextmanager
def open_file(path: Path, takes_pipes: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for reading, without ever waiting for another process to write.

    Args:
        path: a regular file, or a link to one.
        takes_pipes: also accept a pipe that is already open: `/dev/stdin`, or a shell's `<(command)`.

    Raises:
        NotAFileError: if it is anything else, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError:
        raise NotAFileError("cannot be read: a file name cannot contain a NUL character") from None
    except OSError as error:
        raise _not_opened(path, error) from None
    kind = os.fstat(handle).st_mode
    if takes_pipes and stat.S_ISFIFO(kind) and _is_anonymous(handle):
        os.set_blocking(handle, True)
    elif not stat.S_ISREG(kind):
        os.close(handle)
        raise NotAFileError(_named(kind), is_folder=stat.S_ISDIR(kind))
    with os.fdopen(handle, "rb") as file:
        yield file


def _not_opened(path: Path, error: OSError) -> NotAFileError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return NotAFileError("no such file", is_missing=True)
    with contextlib.suppress(OSError, ValueError):
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):  # a socket cannot be opened
            return NotAFileError(_named(kind), is_folder=stat.S_ISDIR(kind))
    return NotAFileError(f"cannot be read: {error.strerror}")


def _is_anonymous(handle: int) -> bool:
    """True for a pipe without a path: the process that made it also writes into it."""
    return str(Path(f"/proc/self/fd/{handle}").readlink()).startswith("pipe:")


def _named(kind: int) -> str:
    if stat.S_ISDIR(kind):
        return "is a folder"
    named = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return f"is {named.get(stat.S_IFMT(kind), 'something else')}, not a file"


def read_bytes(
    path: Path,
    error: type[LoransError] = UsageError,
    *,
    most: int = LARGEST_JSON,
    where: str | None = None,
    before: str = "",
    remedy: str = "",
    if_missing: str = "check the path",
    if_folder: str = "name a file",
    takes_pipes: bool = False,
) -> bytes:
    """Read all bytes of a user's file.

    Args:
        path: the file.
        error: class of the error to raise.
        most: maximum size in bytes.
        where: place to name in messages; default: the path.
        before: text before the fault in messages, such as the key and the file that it names.
        remedy: remedy if the file cannot be read or is too large.
        if_missing: remedy if there is no such file.
        if_folder: remedy if it is a folder.
        takes_pipes: see `open_file`.

    Raises:
        LoransError: of class `error`.
    """
    where = str(path) if where is None else where
    try:
        with open_file(path, takes_pipes) as file:
            content = _read(file, most + 1)
    except NotAFileError as fault:
        remedies = {fault.is_missing: if_missing, fault.is_folder: if_folder}
        what = f"cannot be read: {fault.what}" if before and fault.is_missing else fault.what
        raise error(Problem(where, before + what, remedies.get(True, remedy))) from None
    except OSError as fault:
        raise error(Problem(where, f"{before}cannot be read: {fault.strerror}", remedy)) from None
    if content is None or len(content) > most:
        what = f"is larger than {shown_size(most)}" if content else "cannot be read: no data"
        raise error(Problem(where, before + what, remedy))
    return content


def _read(file: IO[bytes], most: int) -> bytes | None:
    """At most so many bytes of a file, in pieces: Python takes memory for all that it is asked to read.

    Returns:
        None for a pipe that has no data yet.
    """
    pieces: list[bytes] = []
    while most and (piece := file.read(min(MIB, most))):
        pieces.append(piece)
        most -= len(piece)
    return None if not pieces and piece is None else b"".join(pieces)


def shown_size(size: int) -> str:
    """A size as messages show it, such as `64 MiB`."""
    return next(f"{size // unit:,} {name}" for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= unit)


# Text


def decode(content: bytes, where: str, error: type[LoransError] = UsageError) -> str:
    """Decode UTF-8, without a byte order mark.

    Raises:
        LoransError: of class `error`, with the position of the first byte that is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        what = f"not UTF-8 at byte {fault.start + 1}"
        raise error(Problem(where, what, "save the file as UTF-8")) from None


def read_text(path: Path, error: type[LoransError] = UsageError, **how: Any) -> str:
    """Read a file as text. `how` are arguments of `read_bytes`. Raises `error`."""
    return decode(read_bytes(path, error, **how), str(path), error)


def check_text(text: str, where: str, error: type[LoransError] = UsageError) -> str:
    """Check that a command-line argument was UTF-8, and return it. Python decodes other bytes as lone surrogates.

    Raises:
        LoransError: of class `error`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as fault:
        what = f"not UTF-8 at character {fault.start + 1}"
        raise error(Problem(where, what, "check the encoding of the terminal or the script")) from None
    return text


def split_lines(text: str) -> list[str]:
    r"""Split a text at `\n` and `\r\n` only: a form feed or U+2028 is part of its line."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


# JSON and TOML


class RefusedError(ValueError):
    """A well-formed document is refused: too deep, too slow, or with a number that is out of range."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def check_depth(value: Any) -> None:
    """Refuse a value that is nested deeper than `DEEPEST`. Raises `RefusedError`."""
    level = [value]
    for _ in range(DEEPEST):
        level = [below for part in level for below in _parts(part) if isinstance(below, (dict, list))]
        if not level:
            return
    raise RefusedError(TOO_DEEP, "write it as a string")


def _parts(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_json(path: Path, error: type[LoransError] = UsageError, **how: Any) -> Any:
    """Read and parse a JSON file. `how` are arguments of `read_bytes`. Raises `error`."""
    return parse_json(read_text(path, error, **how), str(path), error)


def parse_json(text: str, where: str, error: type[LoransError] = UsageError, is_finite: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        text: the document.
        where: place to name in messages.
        error: class of the error to raise.
        is_finite: refuse NaN and infinite numbers.

    Raises:
        LoransError: of class `error`, if it is not JSON, is nested too deeply, or has an integer with too many digits.
    """
    try:
        value = json.loads(text, parse_float=finite, parse_constant=finite) if is_finite else json.loads(text)
        check_depth(value)
    except json.JSONDecodeError as fault:
        what = fault.msg.lower().removesuffix(" at").removesuffix(" starting")
        place = f"{where}:{fault.lineno}"
        raise error(Problem(place, f"not JSON at column {fault.colno}: {what}", "check the syntax")) from None
    except (ValueError, RecursionError) as fault:
        refused = refusal(fault)
        raise error(Problem(where, refused.what, refused.remedy)) from None
    return value


def refusal(fault: ValueError | RecursionError) -> RefusedError:
    """The `RefusedError` for an error that a parser raised on a well-formed document."""
    if isinstance(fault, RefusedError):
        return fault
    if isinstance(fault, RecursionError):
        return RefusedError(TOO_DEEP, "write it as a string")
    return RefusedError("cannot be read: an integer has too many digits", "write it as a string")


def parse_toml(text: str, where: str, error: type[LoransError] = UsageError) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        LoransError: of class `error`, if it is not TOML, is nested too deeply, takes too long, or has an integer of
            more than 64 bits.
    """
    try:
        return load_toml(text)
    except tomllib.TOMLDecodeError as fault:
        raise error(_not_toml(text, where, fault)) from None
    except RefusedError as fault:
        raise error(Problem(_beside(text, where, fault), fault.what, fault.remedy)) from None


def load_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text, with the parser's own error for a syntax error.

    Raises:
        TOMLDecodeError: if it is not TOML.
        RefusedError: if it is nested too deeply, takes too long, or has an integer of more than 64 bits.
    """
    try:
        table = bounded(lambda: tomllib.loads(text), SECONDS)
    except tomllib.TOMLDecodeError:
        raise
    except OverrunError as fault:
        raise RefusedError(f"cannot be read: it {fault}", "make it smaller") from None
    except (ValueError, RecursionError) as fault:
        raise refusal(fault) from None
    check_depth(table)
    _check_numbers(table)
    return table


def _not_toml(text: str, where: str, fault: tomllib.TOMLDecodeError) -> Problem:
    message, _, place = str(fault).partition(" (at ")
    number = str(len(split_lines(text))) if place.startswith("end") else place.removeprefix("line ").split(",")[0]
    if "Cannot overwrite a value" in message or "twice" in message:
        message = "the key or table is already defined"
    place = f"{where}:{number}" if number.isdigit() else where
    return Problem(place, f"not TOML: {message[:1].lower()}{message[1:]}", "see toml.io for the syntax")


_LARGEST_NUMBER = 2**63


_DIGITS = re.compile(r"[0-9_]+")


def _check_numbers(table: Any) -> None:
    """Refuse integers that do not fit into 64 bits, as the TOML specification requires."""
    waiting = [table]
    while waiting:
        for value in _parts(waiting.pop()):
            if isinstance(value, (dict, list)):
                waiting.append(value)
            elif isinstance(value, int) and not -_LARGEST_NUMBER <= value < _LARGEST_NUMBER:
                raise RefusedError("an integer does not fit into 64 bits", "write a smaller one")


def _beside(text: str, where: str, fault: RefusedError) -> str:
    """File and line of a number that is too large or a value that is nested too deeply; the file if unclear."""
    is_depth = fault.what == TOO_DEEP
    for number, line in enumerate(text.split("\n"), start=1):
        if is_depth and max(line.count("["), line.count("{"), line.partition("=")[0].count(".")) > DEEPEST:
            return f"{where}:{number}"
        if not is_depth and any(len(digits) > 18 and _is_too_large(digits) for digits in _DIGITS.findall(line)):
            return f"{where}:{number}"
    return where


def _is_too_large(digits: str) -> bool:
    digits = digits.replace("_", "").lstrip("0")
    return len(digits) > 19 or (digits.isdecimal() and int(digits) >= _LARGEST_NUMBER)


def finite(text: str) -> float:
    """Parse a JSON number, for `parse_float` and `parse_constant`. Raises `RefusedError` for NaN and infinity."""
    number = float(text)
    if not math.isfinite(number):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise RefusedError(f"{shown} is not a finite number", "write null, or a string")
    return number
