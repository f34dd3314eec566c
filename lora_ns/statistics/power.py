"""Differences that a number of items can show, computed before any model has answered. Needs neither numpy nor scipy.

The verdict on right and wrong answers is an exact McNemar test. Its power depends on the *discordant* items, those that
exactly one of the two systems answers right; all others say nothing about the difference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

DISCORDANT = 0.10
"""Assumed share of items that exactly one system answers right, before training.

An adapter stays close to its base. With accuracy p and a correlation r between their answers, the share is 2 p (1 - p)
(1 - r) (`discordant_share`): 0.10 is an accuracy of 0.5 with r = 0.8, or 0.9 with r = 0.44. It is an optimistic choice.
Different models correlate by 0.3 to 0.7 (Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640), which gives 0.15
to 0.35 at an accuracy of 0.5. So the differences named before training are the least that can be hoped to be shown.
"""

POWER = 0.80
"""Probability of finding a difference that is there, by convention (Cohen 1988)."""

EXACT_UP_TO = 20_000
"""Number of items up to which the power for right and wrong answers is exact; beyond, it is that of the normal test."""

_MOST = 10_000_000
"""Number of items after which the search ends."""


def discordant_share(accuracy: float, correlation: float) -> float:
    """Return the share of items that exactly one of two systems with this accuracy answers right.

    Args:
        accuracy: share of right answers of both systems.
        correlation: correlation between their answers, item by item.
    """
    return 2 * accuracy * (1 - accuracy) * (1 - correlation)


def power(items: int, difference: float, discordant: float = DISCORDANT, level: float = 0.95) -> float:
    """Return the probability that the exact McNemar test finds a difference in the share of right answers.

    Found means p <= 1 - level, in the right direction.

    Args:
        items: number of items that both systems answer.
        difference: true difference of the shares, from 0 to 1.
        discordant: share of items that exactly one system answers right; at least `difference` is assumed.
        level: confidence level.
    """
    share = min(1.0, max(discordant, difference))
    if items <= 0 or share <= 0:
        return 0.0
    wins = (share + difference) / (2 * share)
    if items > EXACT_UP_TO:
        return _normal_power(items, difference, share, level)
    return _exact_power(items, share, wins, 1 - level)


@functools.lru_cache(maxsize=1024)
def smallest_difference(
    items: int, discordant: float = DISCORDANT, power_wanted: float = POWER, level: float = 0.95
) -> float | None:
    """Return the smallest difference in the share of right answers that so many items show; None if they show none.

    Fewer than six items show none, because five wins of five have p = 0.06. With the default assumption, 64 items show
    12 points or more, and 300 items 5. (The normal McNemar test would say 11 and 5; with few discordant items it finds
    differences that are not there more often than its level allows.)
    """
    return _smallest(lambda difference: power(items, difference, discordant, level), power_wanted)


def items_needed(
    difference: float, discordant: float = DISCORDANT, power_wanted: float = POWER, level: float = 0.95
) -> int | None:
    """Return the number of items that show a difference in the share of right answers; None if it is out of reach."""
    return _fewest(lambda items: power(items, difference, discordant, level), power_wanted)


def mean_power(items: int, difference: float, deviation: float, level: float = 0.95) -> float:
    """Return the probability that a paired t-test finds a difference of means.

    The noncentral t distribution is that of Johnson and Welch (1940), within 0.01 for 6 items or more.

    Args:
        items: number of items that both systems answer.
        difference: true difference of the means.
        deviation: standard deviation of the differences between the two values of an item.
        level: confidence level.
    """
    if items < 2 or difference == 0:
        return 0.0
    if deviation <= 0:
        return 1.0
    freedom = items - 1
    critical = t_quantile(1 - (1 - level) / 2, freedom)
    shift = abs(difference) / deviation * math.sqrt(items)
    spread = math.sqrt(1 + critical * critical / (2 * freedom))
    return NormalDist().cdf((shift - critical * (1 - 1 / (4 * freedom))) / spread)


def smallest_mean_difference(
    items: int, deviation: float, power_wanted: float = POWER, level: float = 0.95
) -> float | None:
    """Return the smallest difference of means that this many items show; None for fewer than two items."""
    found = _smallest(lambda units: mean_power(items, units * 100, 1.0, level), power_wanted, 1e-7)
    return None if found is None else found * 100 * deviation


def items_needed_for_mean(
    difference: float, deviation: float, power_wanted: float = POWER, level: float = 0.95
) -> int | None:
    """Return the number of items that show a difference of means; None if it is out of reach."""
    return _fewest(lambda items: mean_power(items, difference, deviation, level), power_wanted)


def _exact_power(items: int, share: float, wins: float, error: float) -> float:
    """Sum over the numbers of discordant items m: its probability, times that of enough wins among them.

    `fair` and `true` are the probabilities of `needed` wins or more among m, for a fair coin and for the true one. Both
    follow from those of m - 1, so that the sum takes one pass.
    """
    found, needed, fair, true = 0.0, 1, 0.0, 0.0
    spread = math.sqrt(items * share * (1 - share))
    last = min(items, math.ceil(items * share + 9 * spread + 9))
    for m in range(last + 1):
        if 2 * fair > error:
            fair -= _binomial(m, needed, 0.5)
            true -= _binomial(m, needed, wins)
            needed += 1
        found += _binomial(items, m, share) * true
        fair += 0.5 * _binomial(m, needed - 1, 0.5)
        true += wins * _binomial(m, needed - 1, wins)
    return min(1.0, max(0.0, found))


def _binomial(count: int, hits: int, chance: float) -> float:
    """Return the probability of so many hits."""
    if not 0 <= hits <= count:
        return 0.0
    if chance in {0.0, 1.0}:
        return float(hits == count * chance)
    ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(ways + hits * math.log(chance) + (count - hits) * math.log1p(-chance))


def _normal_power(items: int, difference: float, share: float, level: float) -> float:
    """Return the power of the normal McNemar test (Miettinen 1968): within 0.01 of the exact one at 20,000 items."""
    critical = NormalDist().inv_cdf(1 - (1 - level) / 2)
    spread = math.sqrt(max(share - difference * difference, 1e-12))
    return NormalDist().cdf((difference * math.sqrt(items) - critical * math.sqrt(share)) / spread)


def _smallest(power_of: Callable[[float], float], wanted: float, precision: float = 1e-5) -> float | None:
    if power_of(1.0) < wanted:
        return None
    low, high = 0.0, 1.0
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(middle) >= wanted else (middle, high)
    return high


def _fewest(power_of: Callable[[int], float], wanted: float) -> int | None:
    low, high = 1, 2
    while power_of(high) < wanted:
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= wanted else (middle, high)
    return high


def t_quantile(share: float, freedom: int) -> float:
    """Return a quantile of Student's t (Abramowitz and Stegun 26.7.5, exact for one and two degrees of freedom).

    Between 0.025 and 0.975, the error is under 0.004 for three degrees of freedom and under 0.0003 for five or more.
    """
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = NormalDist().inv_cdf(share)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / math.pow(freedom, order) for order, term in enumerate(terms, 1))
