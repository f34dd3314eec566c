"""Figures of a system on a set of items, in the form that resampling needs.

Most figures are a function of sums over the items: accuracy, F1, Matthews and Pearson correlation, token-weighted loss,
corpus BLEU from its n-gram counts. Such a figure is a matrix with a row per item and a formula of the column sums. A
resample is then one matrix product, leaving an item out a subtraction, and a cluster the sum of its rows. Any other
figure is a function of the indices of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lora_ns.statistics.groups import Groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Formula = Callable[[Any], Any]
"""Figures of arrays of column sums: (..., k) to (...)."""

UNBOUNDED = (float("-inf"), float("inf"))


class Statistic(Protocol):
    """A figure of groups, which can be left out or drawn repeatedly."""

    @property
    def count(self) -> int:
        """Number of groups."""
        ...

    def value(self) -> float:
        """The figure of all groups."""
        ...

    def without_each(self) -> Array:
        """The figures without each group."""
        ...

    def resampled(self, draws: Array) -> Array:
        """The figures of resamples, (resamples, groups) to (resamples), from how often each group is in."""
        ...


@dataclass(frozen=True, eq=False)
class SumStatistic:
    """A formula of the sums over groups."""

    totals: Array
    """The sums of each group, (groups, k)."""
    formula: Formula

    @property
    def count(self) -> int:
        """Number of groups."""
        return len(self.totals)

    def value(self) -> float:
        """The figure of all groups."""
        return float(self.formula(self.totals.sum(axis=0)))

    def without_each(self) -> Array:
        """The figures without each group."""
        found: Array = self.formula(self.totals.sum(axis=0) - self.totals)
        return found

    def resampled(self, draws: Array) -> Array:
        """The figures of resamples."""
        found: Array = self.formula(draws @ self.totals)
        return found


@dataclass(frozen=True, eq=False)
class IndexStatistic:
    """A function of the items of groups."""

    groups: Groups
    function: Callable[[Array], float]

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.groups.count

    def value(self) -> float:
        """The figure of all groups."""
        import numpy as np

        return self._of(np.ones(self.count))

    def without_each(self) -> Array:
        """The figures without each group."""
        import numpy as np

        return self.resampled(1 - np.eye(self.count))

    def resampled(self, draws: Array) -> Array:
        """The figures of resamples."""
        import numpy as np

        return np.array([self._of(times) for times in draws])

    def _of(self, times: Array) -> float:
        import numpy as np

        codes = self.groups.codes
        return float(self.function(np.repeat(np.arange(len(codes)), times[codes].astype(np.int64))))


@dataclass(frozen=True, eq=False)
class Difference:
    """The figure of the second system minus that of the first, on the same groups."""

    first: Statistic
    second: Statistic

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.first.count

    def value(self) -> float:
        """The difference on all groups."""
        return self.second.value() - self.first.value()

    def without_each(self) -> Array:
        """The differences without each group."""
        found: Array = self.second.without_each() - self.first.without_each()
        return found

    def resampled(self, draws: Array) -> Array:
        """The differences on resamples, the same ones for both systems."""
        found: Array = self.second.resampled(draws) - self.first.resampled(draws)
        return found


@dataclass(frozen=True, eq=False)
class Sums:
    """A figure that is a formula of sums over the items."""

    rows: Array
    """What each item adds to the sums, (items, k)."""
    formula: Formula
    bounds: tuple[float, float] = UNBOUNDED
    """Least and greatest possible figure."""
    kinds: Array | None = None
    """Rows of items that could occur, (kinds, k): what an unseen item might be. None if nothing is known of it."""
    scores: Array | None = None
    """A number for each item by which it is won or lost. None if no item is."""

    unit: ClassVar[str] = ""

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.rows)

    def of(self, groups: Groups) -> SumStatistic:
        """The figure as one of groups."""
        return SumStatistic(groups.sums(self.rows), self.formula)

    def first_not_finite(self) -> int | None:
        """The index of the first item without a finite value."""
        import numpy as np

        wrong = np.flatnonzero(~np.isfinite(self.rows).all(axis=1))
        return int(wrong[0]) if len(wrong) else None


@dataclass(frozen=True, eq=False)
class Mean(Sums):
    """A mean, whose rows are a weight and the weight times the value."""


@dataclass(frozen=True, eq=False)
class Share(Mean):
    """A share of items: the mean of values that are 0 or 1."""

    unit: ClassVar[str] = "points"


@dataclass(frozen=True, eq=False)
class Indexed:
    """A figure that is any function of the indices of items, such as a rank correlation."""

    items: int
    """Number of items."""
    function: Callable[[Any], float]
    """The figure of an array of indices, in which an item can be repeated."""
    bounds: tuple[float, float] = UNBOUNDED
    """Least and greatest possible figure."""
    kinds: None = None
    scores: Array | None = None
    """A number for each item by which it is won or lost. None if no item is."""

    unit: ClassVar[str] = ""

    def of(self, groups: Groups) -> Statistic:
        """The figure as one of groups."""
        return IndexStatistic(groups, self.function)

    def first_not_finite(self) -> int | None:
        """None: items have no values of their own."""
        return None


Measure = Sums | Indexed
"""A figure of a system on a set of items."""


def share(is_right: Sequence[bool]) -> Share:
    """The share of items that are right, such as accuracy or exact match."""
    import numpy as np

    values = np.asarray(is_right, dtype=np.float64)
    if not np.isin(values, (0.0, 1.0)).all():
        raise ValueError("a share is of values that are true or false")
    rows = np.column_stack([np.ones(len(values)), values])
    return Share(rows, _ratio, (0.0, 1.0), np.array([[1.0, 0.0], [1.0, 1.0]]), values)


def mean(
    values: Sequence[float], weights: Sequence[float] | None = None, bounds: tuple[float, float] = UNBOUNDED
) -> Mean:
    """The mean of a value per item, such as ROUGE; with numbers of tokens as weights, the loss per token.

    Args:
        values: the value of each item.
        weights: the weight of each item, 1 if left out.
        bounds: least and greatest possible value of an item.
    """
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(found)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != found.shape or (weight < 0).any():
        raise ValueError("each value has a weight, which is not negative")
    usual = float(weight.mean()) if len(weight) else 1.0
    kinds = None if bounds == UNBOUNDED else np.array([[usual, usual * end] for end in bounds])
    return Mean(np.column_stack([weight, weight * found]), _ratio, bounds, kinds, found)


def corpus(
    rows: Sequence[Sequence[float]],
    formula: Formula,
    bounds: tuple[float, float] = UNBOUNDED,
    kinds: Sequence[Sequence[float]] | None = None,
) -> Sums:
    """A figure of a whole corpus from counts per item, such as BLEU from n-gram matches.

    Args:
        rows: counts of each item.
        formula: the figure of column sums, for arrays (..., k).
        bounds: least and greatest possible figure.
        kinds: counts of items that could occur, for the interval if all items are alike.
    """
    import numpy as np

    known = None if kinds is None else np.asarray(kinds, dtype=np.float64)
    return Sums(np.asarray(rows, dtype=np.float64), formula, bounds, known)


def root_mean_square(errors: Sequence[float]) -> Sums:
    """The root of the mean of squares, such as the RMSE of scores. The smaller error wins an item."""
    squares = mean([error * error for error in errors])
    return Sums(squares.rows, _root_of_ratio, (0.0, float("inf")), None, squares.scores)


def pearson(predicted: Sequence[float], expected: Sequence[float]) -> Sums:
    """The Pearson correlation; 0 if one of the sides is constant, as in `lorans eval`."""
    import numpy as np

    one, other = (np.asarray(side, dtype=np.float64) for side in (predicted, expected))
    with np.errstate(invalid="ignore"):  # of infinities, which are named later
        one, other = one - one.mean() if len(one) else one, other - other.mean() if len(other) else other
        rows = np.column_stack([np.ones(len(one)), one, other, one * one, other * other, one * other])
    return Sums(rows, correlation, (-1.0, 1.0))


def _ratio(sums: Array) -> Any:
    import numpy as np

    weight = sums[..., 0]
    return np.where(weight > 0, sums[..., 1] / np.where(weight > 0, weight, 1.0), np.nan)


def _root_of_ratio(sums: Array) -> Any:
    import numpy as np

    return np.sqrt(_ratio(sums))


def correlation(sums: Array) -> Any:
    """Correlations from sums of 1, x, y, x², y² and xy, (..., 6) to (...); 0 if one of the sides is constant."""
    import numpy as np

    count, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spreads = [count * xx - x * x, count * yy - y * y]
    spread = np.sqrt(
        np.prod(
            [np.where(each > 1e-12 * count * square, each, 0) for each, square in zip(spreads, (xx, yy), strict=True)],
            axis=0,
        )
    )
    return np.where(spread > 0, np.clip((count * xy - x * y) / np.where(spread > 0, spread, 1.0), -1, 1), 0.0)
