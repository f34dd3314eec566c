"""Simulated evaluations whose true figures are known: two systems on the same items.

`python tests/support/simulated.py` prints the table of coverage in docs/statistics.md.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
from numpy.random import Generator

from lora_ns.statistics import (
    Interval,
    Measure,
    Verdict,
    compare,
    entity_f1,
    estimate,
    f1,
    matthews,
    mean,
    pearson,
    share,
    spearman,
)

Pair = tuple[Measure, Measure]
"""The figure of the first and of the second system."""

PAIRS = 1_000


@dataclass(frozen=True)
class Case:
    """A kind of evaluation."""

    draw: Callable[[Generator, int], Pair]
    """Draws as many items, and lets both systems answer them."""
    first: float
    """True figure of the first system."""
    second: float
    """True figure of the second system."""
    cluster: int = 1
    """Number of items per cluster."""

    def clusters(self, items: int) -> list[int] | None:
        """The cluster of each item."""
        return [item // self.cluster for item in range(items)] if self.cluster > 1 else None


def _right(random: Generator, items: int, *, first: float, wins: float, losses: float) -> Pair:
    kind = random.choice(4, size=items, p=[first - losses, losses, wins, 1 - first - wins])
    return share(kind <= 1), share((kind == 0) | (kind == 2))


def _values(random: Generator, items: int, *, difference: float, deviation: float) -> Pair:
    first = random.normal(size=items)
    return mean(first), mean(first + random.normal(difference, deviation, items))


def values(difference: float, deviation: float) -> Case:
    """A value per item, such as ROUGE, and the standard deviation of its change."""
    return Case(partial(_values, difference=difference, deviation=deviation), 0.0, difference)


def accuracy(first: float, wins: float, losses: float) -> Case:
    """Right and wrong answers, with a share of items that only one of the systems has right."""
    return Case(partial(_right, first=first, wins=wins, losses=losses), first, first + wins - losses)


def _clustered(random: Generator, items: int, *, size: int, spread: float) -> Pair:
    """Answers that are right more often in some clusters, and gain more in some."""
    groups = -(-items // size)
    chance = np.repeat(random.beta(0.6 / spread, 0.4 / spread, groups), size)[:items]
    gain = np.repeat(random.choice([-0.1, 0.3], groups), size)[:items]
    luck = random.random(items)
    return share(luck < chance), share(luck < np.clip(chance + gain, 0, 1))


def clustered_accuracy(size: int, spread: float = 0.5) -> Case:
    """Accuracy in clusters, whose true difference is computed from many."""
    chance = np.random.default_rng(1).beta(0.6 / spread, 0.4 / spread, 4_000_000)
    second = float((np.clip(chance - 0.1, 0, 1).mean() + np.clip(chance + 0.3, 0, 1).mean()) / 2)
    return Case(partial(_clustered, size=size, spread=spread), 0.6, second, cluster=size)


def _classes(random: Generator, items: int, *, figure: Callable[..., Measure], positive: float, rates: Rates) -> Pair:
    expected = random.random(items) < positive

    def answered(recall: float, false: float) -> np.ndarray:
        return np.where(expected, random.random(items) < recall, random.random(items) < false)

    first = answered(*rates.first)
    second = np.where(random.random(items) < rates.kept, first, answered(*rates.changed))
    gold = expected.astype(int)
    return figure(first.astype(int), gold), figure(second.astype(int), gold)


@dataclass(frozen=True)
class Rates:
    """Recall and rate of false positives; the second system keeps a share of the first one's answers."""

    first: tuple[float, float]
    changed: tuple[float, float]
    kept: float = 0.6

    @property
    def second(self) -> tuple[float, float]:
        recall, false = (
            self.kept * one + (1 - self.kept) * other for one, other in zip(self.first, self.changed, strict=True)
        )
        return recall, false


def classes(figure: Callable[..., Measure], positive: float, rates: Rates) -> Case:
    """Figures of two classes, computed from the expected counts."""

    def true(recall: float, false: float) -> float:
        right, wrong = positive * recall, (1 - positive) * false
        if figure is f1:
            return 2 * right / (right + wrong + positive)
        spread = (right + wrong) * positive * (1 - positive) * (1 - right - wrong)
        return (right * (1 - positive - wrong) - wrong * (positive - right)) / math.sqrt(spread)

    draw = partial(_classes, figure=figure, positive=positive, rates=rates)
    return Case(draw, true(*rates.first), true(*rates.second))


def _scores(random: Generator, items: int, *, figure: Callable[..., Measure], first: float, second: float) -> Pair:
    expected, noise = random.normal(size=(2, items))
    other = 0.6 * noise + 0.8 * random.normal(size=items)
    one, two = (rho * expected + math.sqrt(1 - rho * rho) * error for rho, error in ((first, noise), (second, other)))
    return figure(one, expected), figure(two, expected)


def correlation(figure: Callable[..., Measure], first: float, second: float) -> Case:
    """Correlations of normal scores; those of their ranks are known too (Pearson 1907)."""

    def true(rho: float) -> float:
        return rho if figure is pearson else 6 / math.pi * math.asin(rho / 2)

    return Case(partial(_scores, figure=figure, first=first, second=second), true(first), true(second))


def _losses(random: Generator, items: int, *, change: float, tail: float) -> Pair:
    tokens = random.integers(20, 200, size=items).astype(float)
    first = random.gamma(2, 1, items) if tail == 0 else np.exp(random.normal(0, tail, items))
    return mean(first, tokens), mean(first * np.exp(random.normal(change, 0.3, items)), tokens)


def loss(change: float = -0.1, tail: float = 0.0) -> Case:
    """Loss per token: gamma, or log-normal with a long tail."""
    first = 2.0 if tail == 0 else math.exp(tail * tail / 2)
    return Case(partial(_losses, change=change, tail=tail), first, first * math.exp(change + 0.045))


def _entities(random: Generator, items: int, *, first: float, second: float) -> Pair:
    expected = random.poisson(2.0, items)
    luck = [random.binomial(expected, rate) for rate in (first, second)]
    return tuple(entity_f1(found, expected, expected) for found in luck)  # type: ignore[return-value]


def entities(first: float = 0.7, second: float = 0.75) -> Case:
    """Entities, of which a share is found and as many are predicted as expected."""
    return Case(partial(_entities, first=first, second=second), first, second)


CHEAP = ("accuracy 0.50", "F1, 30 % positive", "Pearson 0.60", "loss, gamma")
"""The four figures whose differences every run of the tests checks."""
USUAL = Rates((0.7, 0.15), (0.8, 0.1))
CASES = {
    "accuracy 0.50": accuracy(0.5, wins=0.12, losses=0.07),
    "accuracy 0.90": accuracy(0.9, wins=0.06, losses=0.03),
    "accuracy, clusters of 4": clustered_accuracy(4),
    "F1, 30 % positive": classes(f1, 0.3, USUAL),
    "F1, 67 % positive": classes(f1, 0.67, Rates((0.9, 0.5), (0.95, 0.3))),
    "F1, 10 % positive": classes(f1, 0.1, USUAL),
    "Matthews, 30 % positive": classes(matthews, 0.3, USUAL),
    "F1 of entities": entities(),
    "Pearson 0.60": correlation(pearson, 0.6, 0.65),
    "Pearson 0.90": correlation(pearson, 0.9, 0.92),
    "Spearman 0.60": correlation(spearman, 0.6, 0.65),
    "loss, gamma": loss(),
    "loss, log-normal 1": loss(tail=1.0),
}


@dataclass(frozen=True)
class Coverage:
    """Shares of simulated pairs whose intervals contain the truth."""

    single: float
    paired: float


def coverage(case: Case, items: int, *, resamples: int = 999, only_paired: bool = False, seed: int = 7) -> Coverage:
    """Simulate pairs, and count the intervals of the first figure and of the difference that contain the truth."""
    random, clusters = np.random.default_rng(seed), case.clusters(items)
    single = paired = 0
    for _ in range(PAIRS):
        first, second = case.draw(random, items)
        found = compare(first, second, clusters=clusters, resamples=1)  # of which only the test depends on them
        paired += _holds(found.interval, case.second - case.first)
        if not only_paired:
            single += _holds(estimate(first, clusters=clusters, resamples=resamples).interval, case.first)
    return Coverage(math.nan if only_paired else single / PAIRS, paired / PAIRS)


def _holds(interval: Interval, true: float) -> bool:
    return interval.low - 1e-12 <= true <= interval.high + 1e-12


def verdicts(case: Case, items: int, *, resamples: int = 499, seed: int = 7) -> dict[Verdict, float]:
    """Simulate pairs, and return the share of each verdict, for figures of which higher is better."""
    random, clusters = np.random.default_rng(seed), case.clusters(items)
    found = Counter(
        compare(*case.draw(random, items), clusters=clusters, resamples=resamples).verdict for _ in range(PAIRS)
    )
    return {verdict: found[verdict] / PAIRS for verdict in get_args(Verdict)}


SIZES = (30, 60, 120, 300)
SLOW = "Spearman 0.60"
"""The case whose ranks are made anew in every resample."""


def sizes_of(name: str) -> tuple[int, ...]:
    """The numbers of rows that a case is simulated with."""
    return SIZES[:2] if name == SLOW else SIZES


def resamples_of(name: str) -> int:
    """The resamples of its bootstrap."""
    return 399 if name == SLOW else 1_999


def main(names: list[str]) -> None:
    """Write the table in percent: coverage of the figure, and after a slash of the difference."""
    head = f"| figure | {' | '.join(f'{size} rows' for size in SIZES)} |\n|---|{'---|' * len(SIZES)}\n"
    sys.stdout.write(head)
    for name in names or CASES:
        found = [coverage(CASES[name], size, resamples=resamples_of(name)) for size in sizes_of(name)]
        cells = [f"{100 * each.single:.1f} / {100 * each.paired:.1f}" for each in found]
        cells += [""] * (len(SIZES) - len(cells))
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
