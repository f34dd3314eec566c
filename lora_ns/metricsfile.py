"""`metrics.jsonl`, read with care: a full disk or a loss of power leaves half a line, an empty one, or zeros."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.reading import LARGEST_LIST, read_bytes
from lora_ns.rundir import write_atomic


@dataclass(frozen=True)
class LoggedRows:
    """The rows of a metrics file."""

    rows: tuple[dict[str, Any], ...]
    broken: int = 0
    """Lines that are no rows."""


def read_metrics(file: Path) -> LoggedRows:
    """The rows of a file that are whole, each with its `step`; none if there is no file. Raises `UsageError`."""
    if not file.is_file():
        return LoggedRows(())
    *lines, end = read_bytes(file, most=LARGEST_LIST, remedy="move it away").split(b"\n")
    found = [_row(line) for line in (*lines, *([end] if end else []))]
    rows = tuple(row for row in found if row is not None)
    return LoggedRows(rows, len(found) - len(rows))


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # of the first, wrong bytes and wrong JSON are kinds
        return None
    if not isinstance(row, dict):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and not isinstance(step, bool) else None


def forget_after(file: Path, step: int) -> str | None:
    """Remove the rows after a step, all of them after step 0, and what is no row.

    Returns:
        What is to be said of lines that were broken.
    """
    if not file.exists():
        return None
    found = read_metrics(file)
    kept = [row for row in found.rows if row["step"] <= step] if step else []
    write_atomic(file, "".join(f"{json.dumps(row)}\n" for row in kept))
    if not found.broken or not step:
        return None
    lines = f"{found.broken} line{'s' * (found.broken > 1)}"
    return f"{file.name}: {lines} not written to the end, and left out"
