"""A figure of one system with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lora_ns.statistics.bootstrap import bca_interval
from lora_ns.statistics.groups import FEW, RESAMPLES, Groups
from lora_ns.statistics.interval import Interval, wilson
from lora_ns.statistics.jackknife import half_width, skewness_corrected_interval, spread_of
from lora_ns.statistics.measures import Indexed, Mean, Measure, Share, Statistic
from lora_ns.statistics.unseen import bounds_of, unseen_interval


@dataclass(frozen=True)
class Estimate:
    """A figure of a system, with its interval."""

    value: float
    """The figure; NaN without items, or if an item has no finite value."""
    interval: Interval
    items: int
    """Number of items."""
    clusters: int | None
    """Number of clusters; None if each item is independent."""
    notes: tuple[str, ...] = ()
    """Reasons to distrust the interval, each a clause in lower case."""


def estimate(
    measure: Measure,
    *,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return a figure with its interval: Wilson for shares, a skewness-corrected t for means, otherwise BCa.

    Args:
        measure: the figure, from `measures.py` or `classes.py`.
        clusters: for each item, the source that it shares with others; None if items are independent.
        level: confidence level.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap; the same input has the same interval.

    Raises:
        ValueError: if `clusters` is not as long as there are items.
    """
    groups = Groups.of(measure.items, clusters)
    wrong = fault_of(measure, groups)
    if wrong:
        return Estimate(math.nan, bounds_of((measure,), level), measure.items, clusters_of(groups), (wrong,))
    statistic = measure.of(groups)
    value = statistic.value()
    notes = notes_on(groups)
    if isinstance(measure, Share):
        return Estimate(value, _share_interval(measure, groups, level), measure.items, clusters_of(groups), notes)
    spread = spread_of(jackknifed(statistic, measure, groups))
    found: Interval | None
    if not spread.is_known:
        found, notes = unseen_interval((measure,), groups, level), (*notes, without_spread(groups))
    elif isinstance(measure, Mean):
        found = skewness_corrected_interval(spread, level)
    else:
        drawn = min(resamples, MOST_DRAWN) if isinstance(measure, Indexed) else resamples
        found = bca_interval(statistic, level, resamples=drawn, seed=seed, spread=spread)
    if found is None:
        found, notes = bounds_of((measure,), level), (*notes, "the figure is undefined in many resamples")
    return Estimate(value, found.within(measure.bounds), measure.items, clusters_of(groups), notes)


def value_of(measure: Measure) -> float:
    """Return a figure without its interval; NaN if an item has no finite value."""
    groups = Groups.of(measure.items, None)
    return math.nan if fault_of(measure, groups) else measure.of(groups).value()


def _share_interval(measure: Share, groups: Groups, level: float) -> Interval:
    """Return the Wilson interval; with clusters, of as many independent items as are worth these.

    Effective items: Korn and Graubard (1998, Survey Methodology 24); with Wilson: Dean and Pagano (2015, Journal of
    Survey Statistics and Methodology 3).
    """
    statistic = measure.of(groups)
    value = statistic.value()
    if not groups.are_clusters or groups.count < 2:
        return wilson(value, groups.count, level)
    spread = spread_of(statistic)
    effective = min(measure.items, value * (1 - value) / spread.error**2) if spread.is_known else groups.count
    return wilson(value, effective, level, half_width(spread, level))


MOST_LEFT_OUT = 500
"""Number of times that a function of indices is called for the jackknife."""

MOST_DRAWN = 1_999
"""Number of times that it is called for the bootstrap."""


def jackknifed(statistic: Statistic, measure: Measure, groups: Groups) -> Statistic:
    """Return the statistic whose groups are left out: blocks of them, if it is slow and there are many.

    The blocks are random and of equal size (Shao and Tu 1995, The Jackknife and Bootstrap, section 2.3).
    """
    if not isinstance(measure, Indexed) or groups.count <= MOST_LEFT_OUT:
        return statistic
    return measure.of(groups.merged(MOST_LEFT_OUT))


def fault_of(measure: Measure, groups: Groups) -> str:
    """Return the reason for which the figure has no value, or an empty text."""
    if not measure.items:
        return "there are no items"
    wrong = measure.first_not_finite()
    if wrong is not None:
        return f"item {wrong + 1} has no finite value"
    return "" if math.isfinite(measure.of(groups).value()) else "the figure is undefined on these items"


def notes_on(groups: Groups) -> tuple[str, ...]:
    """Return what makes intervals uncertain: few clusters."""
    if groups.are_clusters and groups.count < FEW:
        return (f"only {groups.count} cluster{'s' if groups.count > 1 else ''}, so the interval is uncertain",)
    return ()


def without_spread(groups: Groups) -> str:
    """Return the reason for which nothing was found about the spread of a figure."""
    kind = "cluster" if groups.are_clusters else "item"
    return f"there is one {kind}" if groups.count == 1 else f"all {groups.count} {kind}s agree"


def clusters_of(groups: Groups) -> int | None:
    """Return the number of clusters, if there are any."""
    return groups.count if groups.are_clusters else None
