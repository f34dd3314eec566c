"""Following files that another process appends to, on this machine or on another one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lora_ns.files.reading import LARGEST_LIST, MIB, NotAFileError, open_file
from lora_ns.run.overview import parsed_row
from lora_ns.safety.printable import readable

_MOST = 64 * MIB
"""Bytes that are read at once."""


class MetricsTail:
    """The rows of a metrics file as they arrive. A line is read once its end is written."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._place, self._inode = 0, 0

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the new rows, and whether the file was replaced, so that these rows are all there are.

        A resumed run replaces it by one without the rows that it repeats. An unreadable file has no new rows.
        """
        try:
            with open_file(self._file) as opened:
                facts = os.fstat(opened.fileno())
                is_new = bool(self._inode) and (facts.st_ino != self._inode or facts.st_size < self._place)
                begin = 0 if is_new else self._place
                if facts.st_size > LARGEST_LIST:
                    return [], False
                opened.seek(begin)
                content = opened.read(_MOST)
        except (NotAFileError, OSError):
            return [], False
        whole = content[: content.rfind(b"\n") + 1]
        self._place, self._inode = begin + len(whole), facts.st_ino
        rows = (parsed_row(line) for line in whole.split(b"\n"))
        return [row for row in rows if row is not None], is_new


_LONGEST_LOG = 256 * 1024
"""Bytes at the end of a log that are searched for warnings."""


_WARNING = re.compile(r"(?:warn(?:ing)?|error|exception)\b", re.IGNORECASE)


_OF_EVERY_RUN = ("torch/utils/_pytree.py", "real_accelerator.py")
"""Parts of warnings that torchao and DeepSpeed cause whenever they are imported."""


def last_warnings(log: Path, most: int = 3) -> list[str]:
    """Return the last different lines of a log that contain a warning or an error, printable and without secrets."""
    try:
        with open_file(log) as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - _LONGEST_LOG))
            lines = opened.read().decode("utf-8", "replace").splitlines()
    except (NotAFileError, OSError):
        return []
    telling = (line for line in reversed(lines) if not any(part in line for part in _OF_EVERY_RUN))
    found = dict.fromkeys(line.strip() for line in telling if _WARNING.search(line))
    return [readable(line) for line in list(found)[:most]][::-1]
