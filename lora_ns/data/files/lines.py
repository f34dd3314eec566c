"""The lines of a text file, numbered, decoded, and no longer than a row may be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lora_ns.data.files.packing import BLOCK, not_utf8
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import LARGEST_ROW, MIB, shown_size


def numbered_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
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
            raise DataError(too_long_line(f"{path}:{number}"))
        yield number, None if too_long else line


_MOST_SKIPPED = 256 * MIB


def _skip_line(file: IO[bytes]) -> bool:
    """Read to the end of a line; whether it has one."""
    for _ in range(_MOST_SKIPPED // BLOCK):
        part = file.readline(BLOCK)
        if not part or part.endswith(b"\n"):
            return True
    return False


def too_long_line(where: str, what: str = "a line") -> Problem:
    """The problem of a row that is longer than a row may be."""
    return Problem(where, f"{what} is longer than {shown_size(LARGEST_ROW)}", "split it, or leave it out")


def decoded_line(path: Path, number: int, line: bytes | None) -> str:
    """A line as text, without the mark of the first one. Raises `DataError`."""
    if line is None:
        raise DataError(too_long_line(f"{path}:{number}"))
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(f"{path}:{number}", error)) from None
