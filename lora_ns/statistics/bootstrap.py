"""The BCa bootstrap (Efron 1987, JASA 82), of items or of whole clusters.

`scipy.stats.bootstrap` computes the same (the tests compare the two), but draws single items by their indices. For
sums, a matrix product is faster, and clusters are drawn as easily as items.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lora_ns.statistics.groups import RESAMPLES, alike, draws
from lora_ns.statistics.interval import Interval
from lora_ns.statistics.jackknife import Spread, half_width, spread_of
from lora_ns.statistics.measures import Statistic, SumStatistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

FEWEST_DEFINED = 0.9
"""Share of resamples in which the figure has to be defined."""


def bca_interval(
    statistic: Statistic,
    level: float = 0.95,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    spread: Spread | None = None,
    is_widened: bool = True,
) -> Interval | None:
    """Return the bias-corrected and accelerated percentile interval; None if too many resamples are undefined.

    Args:
        statistic: the figure.
        level: confidence level.
        resamples: number of resamples.
        seed: seed of the draws; the same input has the same interval.
        spread: that of the jackknife, if it is known already.
        is_widened: take percentiles further out, by which the interval of a mean is as wide as that of Student's t
            (Hesterberg 2015, The American Statistician 69). It counts if there are few groups.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    found = _resampled(statistic, resamples, seed)
    defined = found[np.isfinite(found)]
    if len(defined) < FEWEST_DEFINED * len(found):
        return None
    known = spread or spread_of(statistic)
    acceleration = known.skewness / (6 * math.sqrt(known.groups))
    below = np.mean(defined < known.value) + 0.5 * np.mean(defined == known.value)
    bias = ndtri(np.clip(below, 0.5 / len(defined), 1 - 0.5 / len(defined)))
    ends = []
    for tail in (-1, 1):
        shifted = bias + tail * _quantile(known, level, is_widened)
        stretch = 1 - acceleration * shifted  # not positive for a handful of very lopsided items: the furthest resample
        place = ndtr(bias + shifted / stretch) if stretch > 0 else float(shifted > 0)
        ends.append(float(np.quantile(defined, place)))
    return Interval(ends[0], ends[1], level, "BCa bootstrap")


def _resampled(statistic: Statistic, resamples: int, seed: int) -> Array:
    """Return the figures of all resamples."""
    import numpy as np

    same = alike(statistic.totals) if isinstance(statistic, SumStatistic) else None
    if same is None or not isinstance(statistic, SumStatistic):
        return np.concatenate([statistic.resampled(block) for block in draws(statistic.count, resamples, seed)])
    rows, counts = same
    drawn = np.random.default_rng(seed).multinomial(statistic.count, counts / statistic.count, size=resamples)
    found: Array = statistic.formula(drawn @ rows)
    return found


def _quantile(spread: Spread, level: float, is_widened: bool) -> float:
    from scipy.special import ndtri

    if not is_widened:
        return float(ndtri(0.5 + level / 2))
    return math.sqrt(spread.groups / (spread.groups - 1)) * half_width(spread, level)
