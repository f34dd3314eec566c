"""Lines of a text file: numbered, decoded, and within the length limit of a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lora_ns.data.files.packing import BLOCK, not_utf8
from lora_ns.errors import DataError, Problem
from lora_ns.files.reading import LARGEST_ROW, MIB, shown_size


def numbered_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines of a file with their numbers from 1; None for a line that is too long, which is skipped.

    Raises:
        DataError: if such a line does not end within the limit.
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
    """Skip the rest of a line; returns False if its end is not found within the limit."""
    for _ in range(_MOST_SKIPPED // BLOCK):
        part = file.readline(BLOCK)
        if not part or part.endswith(b"\n"):
            return True
    return False


def too_long_line(where: str, what: str = "a line") -> Problem:
    """Create the problem of a row that is too long."""
    return Problem(where, f"{what} is longer than {shown_size(LARGEST_ROW)}", "split it, or leave it out")


def decoded_line(path: Path, number: int, line: bytes | None) -> str:
    """Decode a line, without the byte order mark of the first one. Raises `DataError`."""
    if line is None:
        raise DataError(too_long_line(f"{path}:{number}"))
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(f"{path}:{number}", error)) from None
