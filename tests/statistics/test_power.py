"""Power before training: the values that are said, without numpy or scipy, and those that are found."""

import math

import pytest

from lora_ns.statistics import items_needed, items_needed_for_mean, smallest_difference, smallest_mean_difference
from lora_ns.statistics.power import discordant_share, mean_power, power, t_quantile

SAID = [(5, None), (6, 0.96350), (64, 0.12073), (300, 0.05299), (1_000, 0.02874), (10_000, 0.00895)]


@pytest.mark.parametrize(("items", "difference"), SAID)
def test_the_smallest_difference_is_known_before_training(items, difference):
    found = smallest_difference(items)
    assert found == (None if difference is None else pytest.approx(difference, abs=2e-5))


@pytest.mark.parametrize("items", [16, 64, 300])
def test_the_smallest_difference_needs_these_items(items):
    difference = smallest_difference(items)
    assert power(items, difference) == pytest.approx(0.8, abs=1e-3)
    assert power(items, difference - 0.001) < 0.8


def enumerated(items, share, wins_share):
    """The power from the definition: all counts of wins and losses."""
    chance_win, chance_loss, found = share * wins_share, share * (1 - wins_share), 0.0
    for wins in range(items + 1):
        for losses in range(items - wins + 1):
            tail = sum(math.comb(wins + losses, k) for k in range(losses + 1)) / 2 ** (wins + losses)
            if wins > losses and 2 * tail <= 0.05:
                ways = math.comb(items, wins) * math.comb(items - wins, losses)
                ties = (1 - share) ** (items - wins - losses)
                found += ways * chance_win**wins * chance_loss**losses * ties
    return found


@pytest.mark.parametrize(("items", "difference", "discordant"), [(12, 0.4, 0.5), (40, 0.2, 0.3), (40, 0.1, 0.1)])
def test_the_power_is_that_of_all_tables(items, difference, discordant):
    wins = (discordant + difference) / (2 * discordant)
    assert power(items, difference, discordant) == pytest.approx(enumerated(items, discordant, wins))


def test_the_normal_power_continues_the_exact_one():
    assert power(20_001, 0.006) == pytest.approx(power(20_000, 0.006), abs=0.01)


def test_nothing_is_shown_without_items_or_difference():
    assert power(0, 0.5) == 0.0
    assert power(100, 0.0) < 0.03  # half of the false alarms are in the right direction
    assert items_needed(0.0) is None
    assert smallest_mean_difference(1, 1.0) is None
    assert mean_power(10, 1.0, 0.0) == 1.0


def test_answers_that_agree_less_need_more_items():
    assert discordant_share(0.5, 0.8) == pytest.approx(0.10)
    assert discordant_share(0.9, 0.44) == pytest.approx(0.10, abs=1e-3)
    assert items_needed(0.05, 0.10) < items_needed(0.05, 0.20) < items_needed(0.05, 0.35)


def test_the_difference_of_means_is_that_of_cohen():
    """Cohen (1988): a paired t-test with d = 0.5 needs 34 items for a power of 0.80, with d = 0.2 it needs 199."""
    assert items_needed_for_mean(0.5, 1.0) == 34
    assert items_needed_for_mean(0.2, 1.0) == 199
    assert smallest_mean_difference(34, 2.0) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("freedom", [1, 2, 5, 10, 63, 1000])
def test_the_quantiles_of_student_are_those_of_scipy(freedom):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=3e-4)


@pytest.mark.parametrize(("items", "difference"), [(10, 1.0), (64, 0.35), (300, 0.16)])
def test_the_power_of_a_mean_is_that_of_the_noncentral_t(items, difference):
    stats = pytest.importorskip("scipy.stats")
    critical = stats.t.ppf(0.975, items - 1)
    wanted = stats.nct.sf(critical, items - 1, difference * math.sqrt(items))
    assert mean_power(items, difference, 1.0) == pytest.approx(wanted, abs=0.01)
