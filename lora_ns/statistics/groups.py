"""Units that are drawn, left out or swapped as a whole: single items, or the clusters that they come from."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Array = NDArray[Any]

FEW = 20
"""Number of clusters below which intervals are called uncertain (Cameron and Miller 2015: few is under 20 to 50)."""

_CELLS = 4_000_000
"""Numbers of a block of resamples, so that memory does not grow with the items."""

RESAMPLES = 9_999
"""Resamples of a bootstrap or a permutation test, as in scipy."""

_DRAWS = 50_000_000
"""Drawn units of all resamples; with more units than fit, there are fewer resamples, but not under 999."""


_MANY, _FEW_DISTINCT = 200, 100
"""Number of rows from which, and of distinct ones up to which, it pays to count rows that are alike."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each item. Items of a group are not independent, groups are."""

    codes: Array
    """For each item, the number of its group."""
    count: int
    """Number of groups."""
    are_clusters: bool
    """False if each item is a group of its own."""

    @classmethod
    def of(cls, items: int, clusters: Sequence[object] | None) -> Groups:
        """Group the items by a column, or each by itself. Raises `ValueError` if the column has another length."""
        import numpy as np

        if clusters is None:
            return cls(np.arange(items), items, are_clusters=False)
        if len(clusters) != items:
            raise ValueError(f"{len(clusters)} clusters for {items} items")
        numbers: dict[object, int] = {}
        codes = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
        return cls(codes, len(numbers), are_clusters=len(numbers) < items)

    def sums(self, rows: Array) -> Array:
        """Add up the rows of each group: (items, k) to (groups, k)."""
        import numpy as np

        if not self.are_clusters and self.count == len(rows):
            return rows
        totals = np.zeros((self.count, rows.shape[1]))
        np.add.at(totals, self.codes, rows)
        return totals

    def merged(self, count: int) -> Groups:
        """Merge groups at random, with a fixed seed, so that as many are left."""
        import numpy as np

        return Groups((np.random.default_rng(0).permutation(self.count) % count)[self.codes], count, are_clusters=True)


def resamples_for(groups: int, resamples: int) -> int:
    """The number of resamples, fewer if there are many groups."""
    return max(min(resamples, 999), min(resamples, _DRAWS // max(groups, 1)))


def draws(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """Draw as many groups as there are, with replacement, in blocks of shape (resamples, groups): how often each is in.

    The same arguments give the same draws.
    """
    yield from _random_blocks("draws", groups, resamples_for(groups, resamples), seed)


def alike(rows: Array) -> tuple[Array, Array] | None:
    """The distinct rows and how often each is there; None if there are many, so that nothing is gained.

    Resamples of classes are then drawn by how often each pair of an expected and a predicted class occurs in them,
    which has the same distribution as drawing items and takes a fraction of the time.
    """
    import numpy as np

    if len(rows) < _MANY or rows.shape[1] > _FEW_DISTINCT:
        return None
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    return (distinct, counts) if len(distinct) <= min(_FEW_DISTINCT, len(rows) // 4) else None


def swaps(groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """Choose the groups whose two systems are swapped, in blocks of shape (resamples, groups) of 0 and 1.

    All ways if they are not more than the resamples, otherwise random ones.
    """
    import numpy as np

    if is_enumerable(groups, resamples):
        yield ((np.arange(2**groups)[:, None] >> np.arange(groups)) & 1).astype(np.float64)
    else:
        yield from _random_blocks("swaps", groups, resamples_for(groups, resamples), seed)


def is_enumerable(groups: int, resamples: int) -> bool:
    """True if there are not more ways to swap groups than resamples."""
    return groups < 40 and 2**groups <= resamples + 1


def _random_blocks(kind: str, groups: int, resamples: int, seed: int) -> Iterator[Array]:
    """Make blocks of resamples. Those that fit into one are kept for the next figure of the same items."""
    import numpy as np

    if resamples * groups <= _CELLS:
        yield _kept_block(kind, groups, resamples, seed)
        return
    random = np.random.default_rng(seed)
    most = max(1, _CELLS // groups)
    for start in range(0, resamples, most):
        yield _block(kind, random, min(most, resamples - start), groups)


@functools.lru_cache(maxsize=4)
def _kept_block(kind: str, groups: int, resamples: int, seed: int) -> Array:
    import numpy as np

    block = _block(kind, np.random.default_rng(seed), resamples, groups)
    block.setflags(write=False)
    return block


def _block(kind: str, random: Generator, size: int, groups: int) -> Array:
    """Make a block of floats, with which matrix products are fast."""
    import numpy as np

    if kind == "swaps":
        return random.integers(2, size=(size, groups), dtype=np.int8).astype(np.float64)
    drawn = random.integers(groups, size=(size, groups)) + groups * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)
