"""The rank correlation of Spearman, whose ranks are made anew in every resample, for many resamples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.statistics.groups import Groups
from lora_ns.statistics.measures import Indexed, correlation, pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Ranked(Indexed):
    """A correlation of the ranks of two sides."""

    sides: tuple[Array, Array] = field(kw_only=True)

    def of(self, groups: Groups) -> RankStatistic:
        """The correlation as one of groups."""
        return RankStatistic(groups, tuple(_Order.of(side) for side in self.sides))


@dataclass(frozen=True, eq=False)
class RankStatistic:
    """A rank correlation of groups."""

    groups: Groups
    orders: tuple[_Order, ...]

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.groups.count

    def value(self) -> float:
        """The correlation of all groups."""
        import numpy as np

        return float(self.resampled(np.ones((1, self.count)))[0])

    def without_each(self) -> Array:
        """The correlations without each group."""
        import numpy as np

        return self.resampled(1 - np.eye(self.count))

    def resampled(self, draws: Array) -> Array:
        """The correlations of resamples."""
        import numpy as np

        if not len(self.groups.codes):
            return np.zeros(len(draws))
        times = draws[:, self.groups.codes]
        one, other = (order.centred_ranks(times) for order in self.orders)
        weighted = times * one
        sums = [times.sum(axis=1), weighted.sum(axis=1), (times * other).sum(axis=1)]
        sums += [(weighted * one).sum(axis=1), (times * other * other).sum(axis=1), (weighted * other).sum(axis=1)]
        found: Array = correlation(np.stack(sums, axis=-1))
        return found


@dataclass(frozen=True, eq=False)
class _Order:
    """The order of values."""

    order: Array
    """Indices of the items from the lowest value to the highest."""
    starts: Array
    """For each distinct value, the place of its first item in that order."""
    codes: Array
    """For each item, the number of its value among the distinct ones."""

    @classmethod
    def of(cls, values: Array) -> _Order:
        import numpy as np

        _, starts, codes = np.unique(np.sort(values), return_index=True, return_inverse=True)
        order = np.argsort(values, kind="stable")
        by_item = np.empty(len(values), dtype=np.int64)
        by_item[order] = codes
        return cls(order, starts, by_item)

    def centred_ranks(self, times: Array) -> Array:
        """The ranks of items that occur several times, minus their mean, (resamples, items)."""
        import numpy as np

        counts = np.add.reduceat(times[:, self.order], self.starts, axis=1)
        ranks = counts.cumsum(axis=1) - (counts - 1) / 2
        found: Array = ranks[:, self.codes] - (times.sum(axis=1, keepdims=True) + 1) / 2
        return found


def spearman(predicted: Sequence[float], expected: Sequence[float]) -> Ranked:
    """The rank correlation; 0 if one of the sides is constant. Ranks are made anew in every resample."""
    import numpy as np
    from scipy.stats import rankdata

    one, other = (np.asarray(side, dtype=np.float64) for side in (predicted, expected))

    def of(items: Array) -> float:
        return pearson(rankdata(one[items]), rankdata(other[items])).of(Groups.of(len(items), None)).value()

    return Ranked(len(one), of, (-1.0, 1.0), sides=(one, other))
