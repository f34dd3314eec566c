"""The jackknife: the spread of a figure from its values without each item, or without each cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.statistics.interval import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lora_ns.statistics.measures import Statistic

    Array = NDArray[Any]


@dataclass(frozen=True)
class Spread:
    """The spread of a figure, and how lopsided it is."""

    value: float
    """The figure of all groups."""
    error: float
    """Standard error (Tukey 1958; Efron and Stein 1981, Annals of Statistics 9)."""
    skewness: float
    """Skewness of the groups' influence: 0 if it is symmetric."""
    groups: int
    """Number of groups."""

    @property
    def is_known(self) -> bool:
        """False if all groups say the same, or there is only one."""
        rounding = 1e-13 * max(1.0, abs(self.value))
        return self.groups > 1 and math.isfinite(self.error) and self.error > rounding


def spread_of(statistic: Statistic) -> Spread:
    """Leave out each group once. A single group has no spread."""
    import numpy as np

    count, value = statistic.count, statistic.value()
    if count < 2 or not math.isfinite(value):
        return Spread(value, math.nan, 0.0, count)
    without = statistic.without_each()
    pull = without.mean() - without
    squares = float((pull * pull).sum())
    if not squares > 0:  # also of NaN
        return Spread(value, 0.0 if squares == 0 else math.nan, 0.0, count)
    skewness = float((pull**3).mean() / np.mean(pull * pull) ** 1.5)
    return Spread(value, math.sqrt((count - 1) / count * squares), skewness, count)


def t_interval(spread: Spread, level: float) -> Interval:
    """Return the symmetric interval of Student's t, with one degree of freedom less than there are groups.

    For differences of two systems on the same items, which are nearly symmetric. There the BCa bootstrap covers too
    little, 86 to 92 % with 60 to 120 items, because few items differ (docs/statistics.md).
    """
    half = half_width(spread, level) * spread.error
    return Interval(spread.value - half, spread.value + half, level, "jackknife t")


def skewness_corrected_interval(spread: Spread, level: float) -> Interval:
    """Return the interval of Student's t with the cubic correction for skewness, for single means.

    Hall (1992), "On the removal of skewness by transformation", JRSS B 54. It covers as the studentised bootstrap does,
    and better than BCa, for values with a long tail, such as losses.
    """
    import numpy as np

    size, skewness = spread.groups, spread.skewness
    t = half_width(spread, level)
    if abs(skewness) < 1e-6:
        return Interval(spread.value - t * spread.error, spread.value + t * spread.error, level, "t")
    scale = skewness / math.sqrt(size)

    def corrected(x: float) -> float:
        return float(3 / scale * (np.cbrt(1 + scale * (x - scale / 6)) - 1))

    low, high = spread.value - corrected(t) * spread.error, spread.value - corrected(-t) * spread.error
    return Interval(low, high, level, "skewness-corrected t")


def t_p_value(spread: Spread) -> float:
    """Return the two-sided p-value of a figure of 0, which is under 0.05 if the 95 % interval excludes 0."""
    from scipy.special import stdtr

    return float(2 * stdtr(spread.groups - 1, -abs(spread.value) / spread.error))


def half_width(spread: Spread, level: float) -> float:
    """Return the standard errors within which Student's t is with this probability: 2.0 for 0.95 and 64 groups."""
    from scipy.special import stdtrit

    return float(stdtrit(spread.groups - 1, 0.5 + level / 2))
