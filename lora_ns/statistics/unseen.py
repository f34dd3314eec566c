"""Intervals where all items say the same, from which no method can see a spread."""

from __future__ import annotations

from lora_ns.statistics.groups import Groups
from lora_ns.statistics.interval import Interval, unseen_share
from lora_ns.statistics.measures import Indexed, Measure


def unseen_interval(measures: tuple[Measure, ...], groups: Groups, level: float) -> Interval:
    """Return the figures that are possible if a share of items is of a kind that was not seen.

    The share is that of `unseen_share`, each kind of item is tried, and the furthest figures are the ends: 64 right
    answers of 64 have the accuracy 0.943 to 1, as by Wilson. If the kinds are not known, the ends are the bounds of the
    figure.

    Args:
        measures: one system, or the two whose difference is the figure.
        groups: groups of the items; an unseen kind comes with a group.
        level: confidence level.
    """
    import numpy as np

    unseen = unseen_share(groups.count, level)
    ends = []
    for measure in measures:
        if isinstance(measure, Indexed) or measure.kinds is None or not measure.items:
            return bounds_of(measures, level)
        seen = measure.rows.sum(axis=0)
        figures = measure.formula((1 - unseen) * seen + unseen * measure.items * measure.kinds)
        value = float(measure.formula(seen))
        ends.append((float(np.min(figures, initial=value)), float(np.max(figures, initial=value))))
    low, high = ends[0] if len(ends) == 1 else (ends[1][0] - ends[0][1], ends[1][1] - ends[0][0])
    return Interval(low, high, level, "unseen share")


def bounds_of(measures: tuple[Measure, ...], level: float) -> Interval:
    """Return all possible figures of one system, or differences of two, for data that say nothing."""
    if len(measures) == 1:
        low, high = measures[0].bounds
    else:
        (first_low, first_high), (second_low, second_high) = (measure.bounds for measure in measures)
        low, high = second_low - first_high, second_high - first_low
    return Interval(low, high, level, "none")
