"""Confidence intervals, and those of shares in closed form (Wilson 1927)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Interval:
    """Values that the data do not contradict, and the method that found them."""

    low: float
    """Lower end; minus infinity if nothing is known about it."""
    high: float
    """Upper end; infinity if nothing is known about it."""
    level: float = 0.95
    """Share of such intervals that contain the true value."""
    method: str = ""
    """Name of the method, such as `Wilson` or `BCa bootstrap`."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def is_bounded(self) -> bool:
        """True if both ends are finite numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def within(self, bounds: tuple[float, float]) -> Interval:
        """Cut the interval at values that the figure cannot exceed."""
        return Interval(max(self.low, bounds[0]), min(self.high, bounds[1]), self.level, self.method)


def normal_quantile(level: float) -> float:
    """Return the standard deviations within which a normal variable is with this probability: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson(share: float, count: float, level: float = 0.95, quantile: float | None = None) -> Interval:
    """Return the Wilson interval of a share, which is never empty: 64 right of 64 give 0.943 to 1.

    It covers closer to its level than the exact interval of Clopper and Pearson, which is too wide (Agresti and Coull
    1998, The American Statistician 52; Brown, Cai and DasGupta 2001, Statistical Science 16).

    Args:
        share: share of items, from 0 to 1.
        count: number of independent items; 0 gives the interval from 0 to 1.
        level: confidence level.
        quantile: half width in standard deviations, if not that of the normal distribution.
    """
    if count <= 0 or math.isnan(share):
        return Interval(0.0, 1.0, level, "none")
    z = normal_quantile(level) if quantile is None else quantile
    squared = z * z / count
    middle = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    return Interval(max(0.0, middle - half), min(1.0, middle + half), level, "Wilson")


def unseen_share(count: float, level: float = 0.95) -> float:
    """Return the share that a kind of item may still have of which none was seen: 0.057 after 64 items.

    It is the upper end of the Wilson interval of 0, a little more than the rule of three gives (0.046).
    """
    return wilson(0.0, count, level).high
