"""The paired permutation test: equal systems could be swapped, item by item or cluster by cluster, without a change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lora_ns.statistics.groups import RESAMPLES, Groups, alike, is_enumerable, swaps
from lora_ns.statistics.measures import Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def swap_p_value(first: Sums, second: Sums, groups: Groups, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p-value of the difference of two figures; for means, signs of differences are flipped.

    In research on language it is known as approximate randomisation (Noreen 1989; Yeh 2000, COLING). Few groups are
    swapped in all ways, which is exact. Otherwise the data count as one of the permutations, so p is never 0 (Phipson
    and Smyth 2010).

    Args:
        first: figure of the first system.
        second: figure of the second system, on the same items.
        groups: groups that are swapped as a whole.
        resamples: number of permutations.
        seed: seed of the permutations.
    """
    import numpy as np

    one, other = groups.sums(first.rows), groups.sums(second.rows)
    start, end, change = one.sum(axis=0), other.sum(axis=0), other - one
    observed = abs(float(second.formula(end) - first.formula(start)))
    least = observed - 1e-12 * max(1.0, observed)  # sums in another order differ in their last bits
    as_far, count = 0, 0
    for moved in _moved(change, groups, resamples, seed):
        found = np.abs(second.formula(end - moved) - first.formula(start + moved))
        as_far += int((~(found < least)).sum())  # also those that are undefined
        count += len(moved)
    if is_enumerable(groups.count, resamples):
        return as_far / count
    return (as_far + 1) / (count + 1)


def _moved(change: Array, groups: Groups, resamples: int, seed: int) -> Iterator[Array]:
    """Yield what swaps take from one system and give to the other, in blocks of shape (permutations, k)."""
    import numpy as np

    same = alike(change)
    if same is None:
        for block in swaps(groups.count, resamples, seed):
            yield block @ change
        return
    rows, counts = same
    yield np.random.default_rng(seed).binomial(counts, 0.5, size=(resamples, len(rows))) @ rows
