"""`metrics.jsonl`, read with care: a full disk or a loss of power leaves half a line, an empty one, or zeros.

Whoever reads it says what was left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import LARGEST_LIST, NotAFileError, check_depth, open_file, read_bytes

LAST_STEP = 2**63 - 1
"""More steps than these no run has."""


@dataclass(frozen=True)
class LoggedRows:
    """The rows of a metrics file."""

    rows: tuple[dict[str, Any], ...]
    broken: int = 0
    """Lines that are no rows."""
    fault: str = ""
    """What is in the place of the file, such as `is a pipe, not a file`."""

    def left_out(self, name: str) -> tuple[str, ...]:
        """What is to be said of a file of this name that could not be read, or not all of it."""
        if self.fault:
            return (f"{name}: {self.fault}, and left out",)
        lines = "1 line is no row" if self.broken == 1 else f"{self.broken:,} lines are no rows"
        return (f"{name}: {lines} of this run, and left out",) if self.broken else ()


def read_metrics(file: Path, last: int = LAST_STEP) -> LoggedRows:
    """The rows of a file that are whole, each with its `step`, of which the `last` is the highest; none without a file.

    Raises:
        UsageError: if the file cannot be read, or is too large.
    """
    if not file.is_file():
        return LoggedRows((), fault=_in_place_of(file))
    *lines, end = read_bytes(file, most=LARGEST_LIST, remedy="move it away").split(b"\n")
    found = [_row(line, last) for line in (*lines, *([end] if end else []))]
    rows = tuple(row for row in found if row is not None)
    return LoggedRows(rows, len(found) - len(rows))


def _in_place_of(file: Path) -> str:
    """What is there and is no file; empty if there is nothing."""
    try:
        with open_file(file):
            return ""
    except NotAFileError as fault:
        return "" if fault.is_missing else fault.what


def _row(line: bytes, last: int) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        check_depth(row)
    except (ValueError, RecursionError):  # of the first, wrong bytes and wrong JSON are kinds
        return None
    if not isinstance(row, dict):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= last else None


def forget_after(file: Path, step: int) -> str | None:
    """Remove the rows after a step, all of them after step 0, and what is no row.

    Returns:
        What is to be said of lines that were broken, or of what was in the place of the file.
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
    return f"{file.name}: {lines} not written to the end, and left out"
