"""Confidence interval of a share of rows."""

from __future__ import annotations

import math

_Z = 1.959964
"""Standard deviations of a normal distribution that hold 95 % of it."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent rows (Wilson 1927)."""
    squared = _Z * _Z
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    half = _Z * math.sqrt(share * (1 - share) / count + squared / (4 * count * count)) / (1 + squared / count)
    return middle - half, middle + half
