"""Intervals and p-values against published ones, scipy's, and brute force."""

import itertools
import operator
from importlib.util import find_spec

import pytest

from lora_ns.statistics import wilson
from lora_ns.statistics.interval import unseen_share
from lora_ns.statistics.mcnemar import exact_mcnemar, exact_sign_flips, tango

needs_scipy = pytest.mark.skipif(find_spec("scipy") is None, reason="needs scipy")

NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
"""Newcombe (1998, Statistics in Medicine 17), table I, method 3."""


@pytest.mark.parametrize(("right", "items", "low", "high"), NEWCOMBE)
def test_wilson_gives_the_published_intervals(right, items, low, high):
    found = wilson(right / items, items)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)


def test_wilson_is_never_empty_and_says_nothing_without_items():
    assert wilson(1.0, 64).low == pytest.approx(0.943, abs=5e-4)
    assert unseen_share(64) == pytest.approx(1 - wilson(1.0, 64).low)
    assert (wilson(0.5, 0).low, wilson(0.5, 0).high) == (0, 1)


def test_tango_gives_the_published_interval():
    """Fagerland, Lydersen and Laake (2014): airway reactivity before and after transplantation."""
    found = tango(1, 7, 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("wins", "losses", "items"), [(0, 0, 1), (0, 0, 64), (9, 0, 9), (12, 3, 64), (40, 41, 90)])
def test_tango_holds_the_difference_and_turns_with_the_systems(wins, losses, items):
    found, turned = tango(wins, losses, items), tango(losses, wins, items)
    assert (wins - losses) / items in found
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert -1 <= found.low < found.high <= 1


@pytest.mark.parametrize(
    ("wins", "losses", "ways"),
    [(5, 0, 2), (6, 0, 2), (8, 1, 2 * 10), (12, 3, 2 * (1 + 15 + 105 + 455)), (0, 0, 1), (1, 0, 2), (10, 10, 2**20)],
)
@needs_scipy
def test_mcnemar_counts_the_tosses_that_are_as_lopsided(wins, losses, ways):
    assert exact_mcnemar(wins, losses) == exact_mcnemar(losses, wins) == pytest.approx(ways / 2 ** (wins + losses))


@pytest.mark.parametrize(("wins", "losses"), [(6, 16), (3, 3), (150, 86), (1, 500)])
@needs_scipy
def test_mcnemar_is_the_binomial_test_of_scipy(wins, losses):
    from scipy.stats import binomtest

    assert exact_mcnemar(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue)


@pytest.mark.parametrize("net", [[3, -2, 1, 0, 2, 2, -1], [4, 4, 4], [2, -2], [1, 1, -1, 1], [5], [0, 0], []])
@needs_scipy
def test_sign_flips_of_clusters_are_all_ways_to_swap_the_systems(net):
    flips = itertools.product([-1, 1], repeat=len(net))
    sums = [abs(sum(map(operator.mul, net, signs))) for signs in flips]
    as_far = sum(each >= abs(sum(net)) for each in sums) / len(sums)
    assert exact_sign_flips(net) == pytest.approx(as_far)


@needs_scipy
def test_sign_flips_of_many_clusters_are_quick_and_a_probability():
    assert exact_sign_flips([3, -1] * 10_000) == pytest.approx(0, abs=1e-9)
    assert exact_sign_flips([3, -3] * 10_000) == 1.0


LAW_SCHOOLS = (
    [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594],
    [3.39, 3.30, 2.81, 3.03, 3.44, 3.07, 3.00, 3.43, 3.36, 3.13, 3.12, 2.74, 2.76, 2.88, 2.96],
)
"""Fifteen law schools (Efron 1982): scores of admission tests and grades."""


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize("kind", ["mean", "pearson"])
@needs_scipy
def test_the_bca_bootstrap_is_that_of_scipy(kind, level):
    import numpy as np
    from scipy.stats import bootstrap, pearsonr

    from lora_ns.statistics import mean, pearson
    from lora_ns.statistics.bootstrap import bca_interval
    from lora_ns.statistics.groups import Groups

    scores, grades = LAW_SCHOOLS
    measure = mean(scores) if kind == "mean" else pearson(scores, grades)
    found = bca_interval(measure.of(Groups.of(15, None)), level, resamples=20_000, is_widened=False)
    if kind == "mean":
        wanted = bootstrap([scores], np.mean, confidence_level=level, n_resamples=20_000, rng=np.random.default_rng(1))
    else:
        wanted = bootstrap(
            LAW_SCHOOLS, lambda x, y, axis: pearsonr(x, y, axis=axis).statistic, paired=True, vectorized=True,
            confidence_level=level, n_resamples=20_000, rng=np.random.default_rng(1),
        )  # fmt: skip
    ends = wanted.confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.03 * (ends.high - ends.low))


@needs_scipy
def test_the_bca_bootstrap_of_clusters_is_that_of_their_sums():
    import numpy as np

    from lora_ns.statistics import mean
    from lora_ns.statistics.bootstrap import bca_interval
    from lora_ns.statistics.groups import Groups

    values = np.random.default_rng(2).gamma(2, 1, size=(20, 3))
    clusters = Groups.of(60, np.repeat(np.arange(20), 3).tolist())
    together = bca_interval(mean(values.ravel()).of(clusters), resamples=999)
    alone = bca_interval(mean(values.mean(axis=1)).of(Groups.of(20, None)), resamples=999)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


@needs_scipy
def test_the_interval_of_a_mean_without_skewness_is_that_of_student():
    import numpy as np
    from scipy.stats import t

    from lora_ns.statistics import estimate, mean

    values = np.arange(-10.0, 11.0)
    wanted = t.interval(0.95, 20, loc=0, scale=values.std(ddof=1) / np.sqrt(21))
    found = estimate(mean(values)).interval
    assert (found.low, found.high) == pytest.approx(wanted)


@needs_scipy
def test_the_interval_of_a_skewed_mean_reaches_further_to_its_tail():
    import numpy as np

    from lora_ns.statistics import estimate, mean

    found = estimate(mean(np.random.default_rng(0).gamma(0.5, 1, 40)))
    assert found.interval.high - found.value > found.value - found.interval.low > 0
