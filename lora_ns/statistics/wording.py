"""Verdicts as sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lora_ns.statistics.power import smallest_difference

if TYPE_CHECKING:
    from lora_ns.statistics.compare import Comparison


def sentence(found: Comparison) -> str:
    """Return the verdict and its numbers: `better: 12 of 64 items won, 3 lost, p = 0.035`."""
    parts = (
        [", ".join([*_effect(found), _chance(found)])]
        if found.test != "none" and (found.difference or found.wins)
        else []
    )
    if found.verdict == "cannot tell":
        parts += _contradiction(found)
        if found.smallest is not None:
            least = amount(found.smallest, found.unit)
            parts.append(f"{found.items} items show a difference of {least} or more")
    return f"{found.verdict}: {'; '.join([*parts, *found.notes])}"


def amount(value: float, unit: str = "", *, signed: bool = False) -> str:
    """Return a difference as text: `11 points` for 0.11 if it is a share, otherwise three significant digits."""
    sign = "+" if signed and value > 0 else ""
    if unit == "points":
        points = value * 100
        shown = f"{points:.1f}" if abs(points) < 9.95 else f"{points:.0f}"
        return f"{sign}{shown.removesuffix('.0')} points"
    return f"{sign}{value:.3g}"


def shown_by(items: int) -> str:
    """Return the differences that this many items can show, known before training (`power.py`)."""
    least = smallest_difference(items)
    if least is None:
        return "too few to show any difference in right answers"
    return f"enough to show a difference of {amount(least, 'points')} or more in right answers"


def p_text(p_value: float) -> str:
    """Return a p-value as text: `p = 0.035`, `p < 0.001`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def _effect(found: Comparison) -> list[str]:
    """The items won and lost if the figure is a share of them, otherwise the difference with its interval first."""
    parts = []
    if found.unit != "points":
        ends = f"{amount(found.interval.low)} to {amount(found.interval.high)}"
        if found.interval.is_bounded:
            parts.append(
                f"{amount(found.difference, signed=True)} ({found.interval.level:.0%} interval {ends})".replace(
                    "%", " %"
                )
            )
        else:
            parts.append(amount(found.difference, signed=True))
    if found.wins is not None:
        parts += [f"{found.wins} of {found.items} items won", f"{found.losses} lost"]
    return parts


def _chance(found: Comparison) -> str:
    if found.adjusted_p is None:
        return p_text(found.p_value)
    return f"{p_text(found.adjusted_p)} (Holm, {found.family} comparisons)"


def _contradiction(found: Comparison) -> list[str]:
    """The reason if only one of test and interval speaks for a difference."""
    p_value = found.p_value if found.adjusted_p is None else found.adjusted_p
    if found.test == "none" or math.isnan(p_value) or p_value > 1 - found.interval.level or 0 not in found.interval:
        return []
    return ["the interval includes 0"]
