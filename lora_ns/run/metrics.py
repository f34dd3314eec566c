"""Tolerant reading of `metrics.jsonl`: a full disk or a power loss leaves half a line, an empty one, or zeros.

The caller reports the lines that were left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import LARGEST_LIST, NotAFileError, check_depth, open_file, read_bytes

LAST_STEP = 2**63 - 1
"""Upper limit of step numbers."""


@dataclass(frozen=True)
class LoggedRows:
    """The rows of a metrics file."""

    rows: tuple[dict[str, Any], ...]
    broken: int = 0
    """Number of invalid lines."""
    fault: str = ""
    """Description of something that is not a file, such as `is a pipe, not a file`."""

    def left_out(self, name: str) -> tuple[str, ...]:
        """Return the notes about a file with this name that could not be read completely."""
        if self.fault:
            return (f"{name}: {self.fault}, so it is skipped",)
        lines = "1 line is not a row" if self.broken == 1 else f"{self.broken:,} lines are not rows"
        return (f"{name}: {lines} of this run, skipped",) if self.broken else ()


def read_metrics(file: Path, last: int = LAST_STEP) -> LoggedRows:
    """Read the valid rows of a file, each with a `step` of at most `last`. Without a file there are none.

    Raises:
        UsageError: if the file cannot be read, or is too large.
    """
    if not file.is_file():
        return LoggedRows((), fault=_in_place_of(file))
    *lines, end = read_bytes(file, most=LARGEST_LIST, remedy="move it away").split(b"\n")
    found = [row_of(line, last) for line in (*lines, *([end] if end else []))]
    rows = tuple(row for row in found if row is not None)
    return LoggedRows(rows, len(found) - len(rows))


def _in_place_of(file: Path) -> str:
    """Describe something that is not a file; empty if nothing is there."""
    try:
        with open_file(file):
            return ""
    except NotAFileError as fault:
        return "" if fault.is_missing else fault.what


def row_of(line: bytes, last: int = LAST_STEP) -> dict[str, Any] | None:
    """The row in a line; None if the line is not one, or its step is not in 0 to `last`."""
    try:
        row = json.loads(line)
        check_depth(row)
    except (ValueError, RecursionError):  # ValueError covers wrong bytes and wrong JSON
        return None
    if not isinstance(row, dict):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= last else None


def forget_after(file: Path, step: int) -> str | None:
    """Remove the rows after a step (all rows for step 0), and all invalid lines.

    Returns:
        A note about broken lines, or about something in place of the file.
    """
    if not file.exists():
        return None
    found = read_metrics(file)
    kept = [row for row in found.rows if row["step"] <= step] if step else []
    write_atomic(file, "".join(f"{json.dumps(row)}\n" for row in kept))
    if not step:
        return None
    if found.fault or not found.broken:
        return next(iter(found.left_out(file.name)), None)
    lines = f"{found.broken} line{'s' * (found.broken > 1)}"
    return f"{file.name}: removed {lines} (not written completely)"
