"""Numbers, times and the values of a run in words, for terminals and pages alike."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_ns.run.overview import Best, Overview

_BARS = "▁▂▃▄▅▆▇█"


def number(value: Any) -> str:
    """Format a number for people."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    if math.isnan(value):
        return "not defined"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def sparkline(values: Iterable[float], lowest: float | None = None, highest: float | None = None) -> str:
    """Draw finite values as a row of bars, scaled from the lowest to the highest or between the ends given."""
    listed = [value for value in values if math.isfinite(value)]
    low = min(listed, default=0.0) if lowest is None else lowest
    high = max(listed, default=0.0) if highest is None else highest
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((min(max(value, low), high) - low) * scale)] for value in listed)


def duration(seconds: float) -> str:
    """Format seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def age(seconds: float) -> str:
    """Write how long ago something was, such as `3 h`."""
    unit, name = next((unit, name) for unit, name in _UNITS if seconds >= unit or unit == 1)
    return f"{max(0, int(seconds // unit))} {name}"


_UNITS = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size(count: int) -> str:
    """Write a number of bytes, such as `12.3 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} B"


def best(found: Best | None) -> str:
    """Write a figure with its interval, such as `exact_match 94.0 % (87.5 to 97.2)`."""
    if found is None:
        return ""
    factor, sign = (100, " %") if found.is_share else (1, "")
    shown = f"{found.name.rpartition('.')[2]} {_figure(found.value * factor)}{sign}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} ({_figure(found.low * factor)} to {_figure(found.high * factor)})"


def _figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def steps(run: Overview) -> str:
    """Write how far a run is, such as `120/500, 3:20 left`."""
    if run.status == "damaged":
        return ""
    shown = f"{run.step:,}" if run.max_steps is None else f"{run.step:,}/{run.max_steps:,}"
    return shown if run.seconds_left is None else f"{shown}, {duration(run.seconds_left)} left"


TITLES = ("run", "status", "step", "best", "data", "method", "age", "size", "base")
"""Columns of a table of runs."""


def cells(run: Overview, name: str, now: float | None = None) -> dict[str, str]:
    """Return the texts of a row of a table of runs, by column.

    Args:
        run: the run.
        name: how to call it.
        now: the current time, in seconds since 1970.
    """
    from lora_ns.run.overview import time_of

    created = time_of(run.created)
    return {
        "run": name,
        "status": run.status,
        "step": steps(run),
        "best": best(run.best),
        "data": (run.data or "").rpartition("/")[2] or run.data or "",
        "method": " ".join(part for part in (run.method, run.objective) if part),
        "age": "" if created is None else age((time.time() if now is None else now) - created),
        "size": size(run.size),
        "base": run.base or "",
    }
