"""Shares of rows: how many each group gives to the evaluation, and in which order weighted sources take turns."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

StoppingStrategy = Literal["first_exhausted", "all_exhausted"]


def apportion(count: int, sizes: Sequence[int]) -> list[int]:
    """How many of `count` rows each group gives, in proportion to its size: by largest remainders.

    A group of two rows or more gives one at least and keeps one at least, if the numbers allow it for all of them.
    """
    total = sum(sizes)
    ideal = [Fraction(count * size, total) for size in sizes]
    least = [int(size > 1) for size in sizes]
    most = [max(0, size - 1) for size in sizes]
    if sum(least) > count:
        least = [0] * len(sizes)
    if sum(most) < count:
        most = list(sizes)
    given = [min(max(int(part), low), high) for part, low, high in zip(ideal, least, most, strict=True)]
    step = 1 if sum(given) < count else -1
    # The group that lacks most comes first, then the one that is named first.
    lacking = [(step * (given[group] - ideal[group]), group) for group in range(len(sizes))]
    heapq.heapify(lacking)
    for _ in range(abs(count - sum(given))):
        while True:
            gap, group = heapq.heappop(lacking)
            if least[group] <= given[group] + step <= most[group]:
                break
        given[group] += step
        heapq.heappush(lacking, (gap + 1, group))
    return given


def interleave(
    sizes: Sequence[int], weights: Sequence[float], seed: int, strategy: StoppingStrategy
) -> list[tuple[int, int]]:
    """Source and row of each turn, the sources drawn by their weights, the rows of each in their order.

    As in `datasets.interleave_datasets`, it ends when one source has given all its rows, or when all have; until then,
    a source that has given all begins again.
    """
    draw = random.Random(seed)
    bounds = list(itertools.accumulate(weights))
    ends = any if strategy == "first_exhausted" else all
    turns: list[tuple[int, int]] = []
    places = [0] * len(sizes)
    exhausted = [False] * len(sizes)
    while not ends(exhausted):
        (source,) = draw.choices(range(len(sizes)), cum_weights=bounds)
        turns.append((source, places[source]))
        places[source] = (places[source] + 1) % sizes[source]
        exhausted[source] |= not places[source]
    return turns
