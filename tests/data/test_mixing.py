"""Shares are exact and in proportion; sources take turns as their weights say, the same on every machine."""

import random
from collections import Counter
from fractions import Fraction

import pytest

from lora_ns.data.mixing import apportion, interleave


@pytest.mark.parametrize("seed", range(40))
def test_each_group_gives_its_share(seed):
    """Within one row of the exact share, unless a group of two or more would otherwise give none or all."""
    draw = random.Random(seed)
    sizes = [draw.randint(1, 60) for _ in range(draw.randint(1, 9))] + [2]
    total = sum(sizes)
    count = draw.randint(1, total - 1)
    given = apportion(count, sizes)
    assert sum(given) == count
    assert all(0 <= part <= size for part, size in zip(given, sizes, strict=True))
    if sum(size > 1 for size in sizes) <= count <= sum(size - 1 for size in sizes):
        assert all(0 < part < size for part, size in zip(given, sizes, strict=True) if size > 1)
        assert all(part == 0 for part, size in zip(given, sizes, strict=True) if size == 1)
    elif all(size > 1 for size in sizes) and count < len(sizes):
        assert all(abs(part - Fraction(count * size, total)) < 1 for part, size in zip(given, sizes, strict=True))


@pytest.mark.parametrize(
    ("count", "sizes", "expected"),
    [
        (10, [50, 30, 20], [5, 3, 2]),
        (7, [50, 30, 20], [4, 2, 1]),
        (2, [50, 30, 20], [1, 1, 0]),
        (5, [97, 2, 1], [4, 1, 0]),
        (99, [97, 2, 1], [96, 2, 1]),
        (1, [1, 1], [1, 0]),
        (9, [5, 5], [5, 4]),
    ],
)
def test_largest_remainders_decide(count, sizes, expected):
    assert apportion(count, sizes) == expected


def test_the_first_source_that_is_exhausted_ends_it():
    turns = interleave([100, 1000], [1, 3], 7, "first_exhausted")
    counts = Counter(source for source, _ in turns)
    assert counts[0] == 100 or counts[1] == 1000
    assert len(set(turns)) == len(turns)
    assert counts[1] / len(turns) == pytest.approx(0.75, abs=0.05)


def test_all_sources_are_exhausted_and_the_small_one_is_repeated():
    turns = interleave([10, 1000], [1, 1], 7, "all_exhausted")
    counts = Counter(turns)
    assert set(counts) == {(0, row) for row in range(10)} | {(1, row) for row in range(1000)}
    assert all(counts[1, row] == 1 for row in range(1000))
    small = [counts[0, row] for row in range(10)]
    assert max(small) - min(small) <= 1
    assert sum(small) / len(turns) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("strategy", ["first_exhausted", "all_exhausted"])
def test_the_rows_of_a_source_stay_in_their_order(strategy):
    turns = interleave([5, 9, 20], [0.5, 1, 2.5], 3, strategy)
    for source, size in enumerate([5, 9, 20]):
        rows = [row for owner, row in turns if owner == source]
        assert rows == [place % size for place in range(len(rows))]


def test_the_turns_follow_from_the_seed_alone():
    """The draws are those of Python's own generator, which promises them on every machine."""
    assert [source for source, _ in interleave([5, 5], [1, 2], 42, "first_exhausted")] == [1, 0, 0, 0, 1, 1, 1, 0, 1]
    assert interleave([50, 50], [1, 2], 1, "first_exhausted") != interleave([50, 50], [1, 2], 2, "first_exhausted")
    assert interleave([50, 50], [1, 2], 1, "first_exhausted") == interleave([50, 50], [2, 4], 1, "first_exhausted")
