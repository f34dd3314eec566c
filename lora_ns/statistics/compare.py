"""Two systems on the same items: their difference, whether it is more than chance, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

from lora_ns.statistics.estimate import clusters_of, fault_of, jackknifed, notes_on
from lora_ns.statistics.groups import RESAMPLES, Groups, is_enumerable
from lora_ns.statistics.interval import Interval
from lora_ns.statistics.jackknife import Spread, half_width, spread_of, t_interval, t_p_value
from lora_ns.statistics.mcnemar import exact_mcnemar, exact_sign_flips, tango
from lora_ns.statistics.measures import Difference, Measure, Share, Sums
from lora_ns.statistics.permutation import swap_p_value
from lora_ns.statistics.power import POWER, smallest_difference
from lora_ns.statistics.unseen import bounds_of, unseen_interval

Verdict = Literal["better", "worse", "cannot tell"]

Counts = tuple[int | None, int | None, int | None]
"""Items won, equal and lost."""


@dataclass(frozen=True)
class Comparison:
    """The second system against the first, on the same items."""

    first: float
    """Figure of the first system, such as the base."""
    second: float
    """Figure of the second system, such as the adapter."""
    interval: Interval
    """Interval of the difference."""
    p_value: float
    """Probability of a difference as large between equal systems, not corrected for several comparisons."""
    test: str
    """Name of the test, such as `exact McNemar`."""
    items: int
    """Number of items."""
    clusters: int | None
    """Number of clusters; None if each item is independent."""
    wins: int | None
    """Number of items on which the second system is better; None if the figure has no value per item."""
    ties: int | None
    """Number of items on which they are equal."""
    losses: int | None
    """Number of items on which the first system is better."""
    smallest: float | None
    """Smallest difference that these items show with a power of 80 %, by the spread found; None if there is none."""
    unit: str
    """`points` if differences are shares of items, shown in hundredths; otherwise empty."""
    higher_is_better: bool = True
    adjusted_p: float | None = None
    """p-value after Holm's correction; None if this is the only comparison."""
    family: int = 1
    """Number of comparisons that were made together."""
    notes: tuple[str, ...] = ()
    """Reasons to distrust the verdict, each a clause in lower case."""

    @property
    def difference(self) -> float:
        """Figure of the second system minus that of the first."""
        return self.second - self.first

    @property
    def verdict(self) -> Verdict:
        """`better` or `worse` if both the test and the interval say so, otherwise `cannot tell`."""
        p_value = self.p_value if self.adjusted_p is None else self.adjusted_p
        if not p_value <= 1 - self.interval.level + 1e-12 or 0 in self.interval:
            return "cannot tell"
        return "better" if (self.interval.low > 0) == self.higher_is_better else "worse"

    @property
    def reason(self) -> str:
        """The verdict and its numbers in one sentence."""
        from lora_ns.statistics.wording import sentence

        return sentence(self)


def compare(
    first: Measure,
    second: Measure,
    *,
    higher_is_better: bool = True,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare the second system with the first, item by item.

    | figure | test | interval of the difference |
    |---|---|---|
    | share | exact McNemar; with clusters, exact sign flips of clusters | Tango; with clusters, jackknife t |
    | mean, F1, correlation, corpus | permutation: the systems are swapped item by item | jackknife t |
    | function of indices | t | jackknife t |

    Args:
        first: figure of the first system.
        second: figure of the second system, of the same kind and on the same items in the same order.
        higher_is_better: False for losses and error rates.
        clusters: for each item, the source that it shares with others; None if items are independent.
        level: confidence level; the verdict needs p <= 1 - level.
        resamples: number of random permutations.
        seed: seed of the permutations; the same input has the same result.

    Raises:
        ValueError: if the figures are not of the same kind and length.
    """
    if type(first) is not type(second) or first.items != second.items:
        raise ValueError(
            f"{first.items} and {second.items} items, of {type(first).__name__} and {type(second).__name__}"
        )
    groups = Groups.of(first.items, clusters)
    counts = _wins_ties_losses(first, second, higher_is_better)
    wrong = fault_of(first, groups) or fault_of(second, groups)
    if wrong:
        return _undecided(first, second, groups, counts, higher_is_better, level, wrong)
    difference = Difference(first.of(groups), second.of(groups))
    spread = spread_of(_jackknifed(first, second, groups))
    test, p_value = _test(first, second, groups, spread, resamples, seed)
    return Comparison(
        difference.first.value(),
        difference.second.value(),
        _interval(first, second, groups, spread, level),
        p_value,
        test,
        first.items,
        clusters_of(groups),
        *counts,
        _smallest(first, second, groups, spread, level),
        first.unit,
        higher_is_better,
        notes=(*notes_on(groups), *_doubts(groups, spread, level)),
    )


def _undecided(
    first: Measure, second: Measure, groups: Groups, counts: Counts, higher_is_better: bool, level: float, reason: str
) -> Comparison:
    """Return a comparison of which nothing is known, because one of the figures has no value."""
    values = [math.nan if fault_of(each, groups) else each.of(groups).value() for each in (first, second)]
    interval = bounds_of((first, second), level)
    clusters = clusters_of(groups)
    return Comparison(
        values[0], values[1], interval, 1.0, "none", first.items, clusters, *counts, None, first.unit, higher_is_better,
        notes=(reason,),
    )  # fmt: skip


def adjust(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Correct the p-values of comparisons that are made together (Holm 1979, Scandinavian Journal of Statistics 6).

    The chance that any of their verdicts is wrong about equal systems is then at most 1 - level. Comparisons that could
    not be made count as well.
    """
    adjusted = holm([each.p_value for each in comparisons])
    count = len(comparisons)
    return tuple(
        replace(each, adjusted_p=p_value if count > 1 else None, family=count)
        for each, p_value in zip(comparisons, adjusted, strict=True)
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values after Holm's correction, in the given order."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return tuple(adjusted)


def _jackknifed(first: Measure, second: Measure, groups: Groups) -> Difference:
    return Difference(*(jackknifed(each.of(groups), each, groups) for each in (first, second)))


def _wins_ties_losses(first: Measure, second: Measure, higher_is_better: bool) -> Counts:
    if first.scores is None or second.scores is None:
        return None, None, None
    gain = second.scores - first.scores
    if not higher_is_better:
        gain = -gain
    wins, losses = int((gain > 0).sum()), int((gain < 0).sum())
    return wins, len(gain) - wins - losses, losses


def _test(
    first: Measure, second: Measure, groups: Groups, spread: Spread, resamples: int, seed: int
) -> tuple[str, float]:
    """Return the name and the p-value of the test of no difference."""
    if isinstance(first, Share) and isinstance(second, Share):
        net = groups.sums((second.rows - first.rows)[:, 1:])[:, 0].astype(int).tolist()
        if groups.are_clusters:
            return "exact sign flips of clusters", exact_sign_flips(net)
        return "exact McNemar", exact_mcnemar(net.count(1), net.count(-1))
    if isinstance(first, Sums) and isinstance(second, Sums):
        name = "exact permutation" if is_enumerable(groups.count, resamples) else "permutation"
        return name, swap_p_value(first, second, groups, resamples=resamples, seed=seed)
    return "t", t_p_value(spread) if spread.is_known else 1.0


def _interval(first: Measure, second: Measure, groups: Groups, spread: Spread, level: float) -> Interval:
    if isinstance(first, Share) and isinstance(second, Share) and not groups.are_clusters:
        net = (second.rows - first.rows)[:, 1]
        return tango(int((net > 0).sum()), int((net < 0).sum()), first.items, level)
    if not spread.is_known:
        return unseen_interval((first, second), groups, level)
    bounds = bounds_of((first, second), level)
    return t_interval(spread, level).within((bounds.low, bounds.high))


def _smallest(first: Measure, second: Measure, groups: Groups, spread: Spread, level: float) -> float | None:
    """Return the smallest difference that these items show, if their spread is that of all items."""
    if isinstance(first, Share) and isinstance(second, Share) and not groups.are_clusters:
        discordant = float((first.rows[:, 1] != second.rows[:, 1]).mean())
        return smallest_difference(first.items, discordant, level=level) if discordant else None
    if not spread.is_known:
        return None
    return (half_width(spread, level) + NormalDist().inv_cdf(POWER)) * spread.error


def _doubts(groups: Groups, spread: Spread, level: float) -> tuple[str, ...]:
    kind = "clusters" if groups.are_clusters else "items"
    if not spread.is_known and groups.count > 1:
        return ("no item makes a difference" if spread.value == 0 else f"all {kind} differ by the same amount",)
    if 2.0 ** (1 - groups.count) > 1 - level:
        few = f"{groups.count} {kind} are" if groups.count > 1 else f"one {kind[:-1]} is"
        return (f"{few} too few for any verdict",)
    return ()
