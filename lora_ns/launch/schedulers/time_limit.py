"""Time limits in the notation of `sbatch`."""

from __future__ import annotations

import re

from lora_ns.errors import Problem, UsageError

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def minutes(time: str) -> int:
    """Convert a time in the notation of `sbatch` to minutes, rounded up.

    The forms are `90` (minutes), `90:00`, `1:30:00`, `1-0`, `1-0:30` and `1-0:30:00`. Raises `UsageError`.
    """
    found = _TIME.fullmatch(time)
    if not found:
        raise UsageError(Problem("--time", f"`{time}`", "write minutes, `HOURS:MINUTES:SECONDS` or `DAYS-HOURS`"))
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:  # minutes come first
        parts = [0, *parts]
    hours, mins, seconds = (*parts, 0, 0, 0)[:3]
    whole = (int(days or 0) * 24 + hours) * 60 + mins + (seconds > 0)
    if not whole:
        raise UsageError(Problem("--time", f"`{time}` is zero", "write minutes, such as `90`"))
    return whole
