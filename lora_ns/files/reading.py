"""The one place that opens what a user hands in: bytes, text, JSON and TOML, with limits on size, depth and kind.

A file is read only if it is a regular file, because a pipe may never end and a device never does. Whatever is wrong is
raised as one `Problem` with the place, in the error class that the caller asks for.
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
"""Bytes of a recipe or a chat template."""


LARGEST_YAML = 64 * KIB
"""Bytes of a YAML file, which is read slowly; those of accelerate have one or two thousand."""


LARGEST_JSON = 64 * MIB
"""Bytes of a JSON file that is not a data set: a configuration, a manifest."""


LARGEST_ROW = 16 * MIB
"""Bytes of one row, of a line of a data file, and of standard input."""


LARGEST_TEXT = 256 * MIB
"""Bytes of a `.txt` file that is one row, and of all prompts."""


LARGEST_LIST = GIB
"""Bytes of a file of a run that grows with it: its metrics, the trainer's state."""


LARGEST_OBJECT = 32 * MIB
"""Bytes of a `.json` data file that is one object, which is read as a whole; as Python's values it may be 25 times as
large."""


MOST_COLUMNS = 10_000
"""Columns of a table, or keys of a row."""


MOST_UNPACKED, FREELY_UNPACKED = 200, 4 * MIB
"""How many times larger than its file what is unpacked may be, beyond the first bytes."""


DEEPEST = 100
"""Lists and tables inside one another."""


TOO_DEEP = "cannot be read: nested too deep"


SECONDS = 3.0
"""What reading one document may take."""


class NotAFileError(Exception):
    """A path that cannot be opened as a file: what it is, and whether nothing or a folder is there."""

    def __init__(self, what: str, is_missing: bool = False, is_folder: bool = False) -> None:
        super().__init__(what)
        self.what, self.is_missing, self.is_folder = what, is_missing, is_folder


# Paths


def is_file(path: Path) -> bool:
    """Whether a path is a regular file; a path that cannot be one, such as one that is too long, is not."""
    return _asked(path.is_file)


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    return _asked(path.is_dir)


def exists(path: Path) -> bool:
    """Whether there is something at a path."""
    return _asked(path.exists)


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path is that of a folder or of something in it, by its name or by what it leads to."""
    return any(name.is_relative_to(whole) for name in _names(path) for whole in _names(folder))


def _names(path: Path) -> tuple[Path, Path]:
    """A path with its folder resolved, and resolved itself: `Path.resolve` would raise for a link to itself."""
    return Path(os.path.realpath(path.absolute().parent)) / path.name, Path(os.path.realpath(path))


def _asked(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError):  # too long, NUL, no right to look
        return False


# Bytes


@contextlib.contextmanager
def open_file(path: Path, takes_pipes: bool = False) -> Iterator[IO[bytes]]:
    """The bytes of a file, unbuffered by size; opening and reading never wait for somebody else to write.

    Args:
        path: a regular file, or a link to one.
        takes_pipes: whether a pipe that is already open will do: `/dev/stdin`, or `<(command)` of a shell.

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
    """Whether a pipe has no name in a folder, so that whoever made it also writes into it."""
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
    """All bytes of a file that the user handed in.

    Args:
        path: the file.
        error: what is raised if it cannot be read.
        most: the bytes that it may have.
        where: the place that messages name, if not the path.
        before: what stands before the fault in messages, such as the key and the file that it names.
        remedy: what to do if the file cannot be read or is too large.
        if_missing: what to do if there is no such file.
        if_folder: what to do if it is a folder.
        takes_pipes: see `open_file`.

    Raises:
        LoransError: of class `error`.
    """
    where = str(path) if where is None else where
    try:
        with open_file(path, takes_pipes) as file:
            content = file.read(most + 1)
    except NotAFileError as fault:
        remedies = {fault.is_missing: if_missing, fault.is_folder: if_folder}
        what = f"cannot be read: {fault.what}" if before and fault.is_missing else fault.what
        raise error(Problem(where, before + what, remedies.get(True, remedy))) from None
    except OSError as fault:
        raise error(Problem(where, f"{before}cannot be read: {fault.strerror}", remedy)) from None
    if content is None or len(content) > most:
        what = f"is larger than {shown_size(most)}" if content else "cannot be read: it gives no data"
        raise error(Problem(where, before + what, remedy))
    return content


def shown_size(size: int) -> str:
    """A limit as messages name it."""
    return next(f"{size // unit:,} {name}" for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= unit)


# Text


def decode(content: bytes, where: str, error: type[LoransError] = UsageError) -> str:
    """Bytes as text; a byte order mark is not part of it.

    Raises:
        LoransError: of class `error`, with the first byte that is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        what = f"not UTF-8 at byte {fault.start + 1}"
        raise error(Problem(where, what, "save the file as UTF-8")) from None


def read_text(path: Path, error: type[LoransError] = UsageError, **how: Any) -> str:
    """All of a file as text; `how` is that of `read_bytes`. Raises `error`."""
    return decode(read_bytes(path, error, **how), str(path), error)


def check_text(text: str, where: str, error: type[LoransError] = UsageError) -> str:
    """A text of the command line, if it was UTF-8; Python keeps other bytes as halves of characters.

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
    r"""Lines of a text, which end in `\n` or `\r\n` and in nothing else: a form feed or U+2028 is part of its line."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


# JSON and TOML


class RefusedError(ValueError):
    """A document that the parser would read, and read as something else."""

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
    """What a JSON file has in it; `how` is that of `read_bytes`. Raises `error`."""
    return parse_json(read_text(path, error, **how), str(path), error)


def parse_json(text: str, where: str, error: type[LoransError] = UsageError, is_finite: bool = False) -> Any:
    """What a JSON text says.

    Args:
        text: the document.
        where: the place that messages name.
        error: what is raised.
        is_finite: whether NaN and numbers that are too large are refused, too.

    Raises:
        LoransError: of class `error`, if it is not JSON, too deep, or has numbers that are too long.
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
    """Why a document that is well-formed is not read."""
    if isinstance(fault, RefusedError):
        return fault
    if isinstance(fault, RecursionError):
        return RefusedError(TOO_DEEP, "write it as a string")
    return RefusedError("cannot be read: a whole number has too many digits", "write it as a string")


def parse_toml(text: str, where: str, error: type[LoransError] = UsageError) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        LoransError: of class `error`, if it is not TOML, too deep, or has numbers that TOML does not.
    """
    try:
        return load_toml(text)
    except tomllib.TOMLDecodeError as fault:
        raise error(_not_toml(text, where, fault)) from None
    except RefusedError as fault:
        raise error(Problem(_beside(text, where, fault), fault.what, fault.remedy)) from None


def load_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        TOMLDecodeError: if it is not TOML.
        RefusedError: if it is too deep, takes too long, or has numbers that TOML does not.
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
        message = "a key or table that is already there"
    place = f"{where}:{number}" if number.isdigit() else where
    return Problem(place, f"not TOML: {message[:1].lower()}{message[1:]}", "see toml.io for the syntax")


_LARGEST_NUMBER = 2**63


_DIGITS = re.compile(r"[0-9_]+")


def _check_numbers(table: Any) -> None:
    """Refuse whole numbers that do not fit 64 bits, as TOML asks for."""
    waiting = [table]
    while waiting:
        for value in _parts(waiting.pop()):
            if isinstance(value, (dict, list)):
                waiting.append(value)
            elif isinstance(value, int) and not -_LARGEST_NUMBER <= value < _LARGEST_NUMBER:
                raise RefusedError("a whole number does not fit 64 bits", "write a smaller one")


def _beside(text: str, where: str, fault: RefusedError) -> str:
    """The line of a number that is too long or of what is nested too deep; the file, if none stands out."""
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
    """A number of a JSON text, for `parse_float` and `parse_constant`. Raises `RefusedError` for NaN and infinity."""
    number = float(text)
    if not math.isfinite(number):
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise RefusedError(f"{shown} is no finite number", "write null, or a string")
    return number
