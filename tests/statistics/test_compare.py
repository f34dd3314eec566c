"""Two systems on the same items: the tests, Holm's correction, verdicts, and data from which nothing follows."""

import itertools
import math

import pytest

pytest.importorskip("scipy")
import numpy as np

from lora_ns.statistics import adjust, compare, estimate, f1, matthews, mean, pearson, share, spearman
from lora_ns.statistics.compare import holm
from lora_ns.statistics.groups import Groups
from lora_ns.statistics.permutation import swap_p_value

RANDOM = np.random.default_rng(5)


def right(*counts):
    """Answers of both systems: only the first right, only the second, both, none."""
    losses, wins, both, none = counts
    first = [True] * losses + [False] * wins + [True] * both + [False] * none
    second = [False] * losses + [True] * wins + [True] * both + [False] * none
    return share(first), share(second)


@pytest.mark.parametrize(
    ("losses", "wins", "verdict"),
    [
        (3, 12, "better"),
        (12, 3, "worse"),
        (5, 8, "cannot tell"),
        (0, 5, "cannot tell"),
        (0, 6, "better"),
        (0, 0, "cannot tell"),
    ],
)
def test_right_answers_are_judged_by_the_exact_mcnemar_test(losses, wins, verdict):
    found = compare(*right(losses, wins, 20, 64 - 20 - losses - wins))
    assert (found.wins, found.losses, found.ties) == (wins, losses, 64 - wins - losses)
    assert found.test == "exact McNemar"
    assert found.verdict == verdict
    assert found.reason.startswith(f"{verdict}: ")


def test_lower_is_better_for_losses():
    first, second = mean(np.linspace(1, 3, 40)), mean(np.linspace(1, 3, 40) - RANDOM.random(40))
    assert compare(first, second, higher_is_better=False).verdict == "better"
    assert compare(first, second).verdict == "worse"


HOLM = {
    "wikipedia": ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
    "never above 1": ([0.6, 0.9], [1.0, 1.0]),
    "equal": ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    "alone": ([0.04], [0.04]),
    "none": ([], []),
}


@pytest.mark.parametrize(("given", "adjusted"), HOLM.values(), ids=HOLM)
def test_holm_adjusts_as_published(given, adjusted):
    assert holm(given) == pytest.approx(adjusted)


def test_a_verdict_can_be_lost_among_several():
    barely, clearly, equal = (compare(*right(*counts)) for counts in ((3, 12, 20, 29), (0, 20, 20, 24), (4, 4, 9, 9)))
    assert [each.verdict for each in (barely, clearly, equal)] == ["better", "better", "cannot tell"]
    assert [each.verdict for each in adjust([barely, clearly, equal])] == ["cannot tell", "better", "cannot tell"]
    assert "Holm, 3 comparisons" in adjust([barely, clearly, equal])[0].reason
    assert adjust([barely]) == (barely,)


def test_few_items_are_permuted_in_all_ways():
    first, second = RANDOM.normal(size=8), RANDOM.normal(0.5, size=8)
    change = second - first
    ways = [abs(np.mean(change * signs)) for signs in itertools.product([-1, 1], repeat=8)]
    wanted = np.mean(np.array(ways) >= abs(change.mean()) - 1e-12)
    found = compare(mean(first), mean(second))
    assert found.test == "exact permutation"
    assert found.p_value == pytest.approx(wanted)


def test_many_items_are_permuted_at_random_as_scipy_does():
    from scipy.stats import permutation_test

    first, second = RANDOM.normal(size=60), RANDOM.normal(0.2, size=60)
    found = swap_p_value(mean(first), mean(second), Groups.of(60, None))
    wanted = permutation_test(
        [second - first], lambda x, axis: x.mean(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=9_999, rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found == pytest.approx(wanted.pvalue, abs=0.02)


def test_clusters_count_once():
    """Twelve wins that all come from one source are one win."""
    first, second = right(0, 12, 20, 32)
    alone, clustered = compare(first, second), compare(first, second, clusters=["source"] * 12 + list(range(52)))
    assert (alone.verdict, clustered.verdict) == ("better", "cannot tell")
    assert clustered.clusters == 53
    assert clustered.p_value == 1.0


def sample(items):
    gold = RANDOM.integers(2, size=items)
    first, second = (np.where(RANDOM.random(items) < rate, gold, 1 - gold) for rate in (0.6, 0.9))
    scores = RANDOM.normal(size=(3, items))
    return {
        "share": (share(first == gold), share(second == gold)),
        "mean": (mean(scores[0]), mean(scores[1])),
        "F1": (f1(first, gold), f1(second, gold)),
        "Matthews": (matthews(first, gold), matthews(second, gold)),
        "Pearson": (pearson(scores[0], scores[2]), pearson(scores[1], scores[2])),
        "Spearman": (spearman(scores[0], scores[2]), spearman(scores[1], scores[2])),
    }


KINDS = list(sample(3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_has_the_same_result_and_another_seed_nearly(kind):
    first, second = sample(60)[kind]
    assert compare(first, second, resamples=499) == compare(first, second, resamples=499)
    assert estimate(first, resamples=199) == estimate(first, resamples=199)
    one, other = (estimate(second, resamples=1999 if kind != "Spearman" else 199, seed=seed) for seed in (0, 1))
    assert one.interval.low == pytest.approx(other.interval.low, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_systems_can_be_exchanged(kind):
    first, second = sample(60)[kind]
    one, other = compare(first, second, resamples=499), compare(second, first, resamples=499)
    assert one.difference == -other.difference
    assert (one.wins, one.losses) == (other.losses, other.wins)
    assert (one.interval.low, one.interval.high) == pytest.approx((-other.interval.high, -other.interval.low))
    assert one.p_value == pytest.approx(other.p_value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("cluster", [None, "one"])
def test_few_items_give_no_verdict_and_no_error(kind, items, cluster):
    clusters = None if cluster is None else [cluster] * items
    for first, second in [sample(items)[kind]] * 2:
        found, alone = compare(first, second, clusters=clusters), estimate(second, clusters=clusters, resamples=99)
        assert found.verdict == "cannot tell"
        assert found.interval.low <= found.interval.high
        assert alone.interval.low <= alone.interval.high
        assert math.isnan(alone.value) == (items == 0)
        assert not math.isnan(found.p_value)
        assert found.reason


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_is_equal_to_itself(kind):
    first, _ = sample(40)[kind]
    found = compare(first, first, resamples=99)
    assert (found.verdict, found.difference, found.p_value) == ("cannot tell", 0.0, 1.0)
    assert 0 in found.interval


ALIKE = {
    "all right": (share([True] * 64), 1.0, 0.943, 1.0),
    "all wrong": (share([False] * 64), 0.0, 0.0, 0.057),
    "all right, F1": (f1([0, 1] * 32, [0, 1] * 32), 1.0, 0.8, 1.0),
    "one value, bounded": (mean([0.5] * 64, bounds=(0, 1)), 0.5, 0.4, 0.6),
    "one value": (mean([0.5] * 64), 0.5, -math.inf, math.inf),
    "exact correlation": (pearson(range(20), range(20)), 1.0, -1.0, 1.0),
    "constant side": (pearson([1.0] * 20, range(20)), 0.0, -1.0, 1.0),
}


@pytest.mark.parametrize(("measure", "value", "low", "high"), ALIKE.values(), ids=ALIKE)
def test_items_that_all_say_the_same_have_an_interval_that_is_not_empty(measure, value, low, high):
    found = estimate(measure, resamples=99)
    assert found.value == pytest.approx(value)
    assert found.value in found.interval
    assert low <= found.interval.low + 5e-4
    assert found.interval.high - 5e-4 <= high
    assert found.interval.high - found.interval.low > 0.05


def test_a_perfect_system_is_better_than_one_that_knows_nothing():
    gold = [0, 1] * 32
    assert compare(f1([0] * 64, gold), f1(gold, gold)).verdict == "better"
    assert compare(mean([0.0] * 64, bounds=(0, 1)), mean([1.0] * 64, bounds=(0, 1))).verdict == "better"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_item_without_a_finite_value_is_named_and_nothing_is_decided(value):
    found = compare(mean([1.0, 2.0, 3.0]), mean([1.0, value, 3.0]))
    assert (found.verdict, found.first) == ("cannot tell", 2.0)
    assert math.isnan(found.second)
    assert found.reason == "cannot tell: item 2 has no finite value"


def test_figures_of_two_kinds_or_lengths_are_not_compared():
    with pytest.raises(ValueError, match="64 and 3 items, of Share and Mean"):
        compare(share([True] * 64), mean([1, 2, 3]))


def test_few_clusters_are_noted():
    first, second = right(3, 12, 20, 29)
    found = compare(first, second, clusters=[item % 7 for item in range(64)])
    assert "only 7 clusters, so the interval is uncertain" in found.notes
    assert estimate(first, clusters=[item % 7 for item in range(64)]).clusters == 7


SHOWN = "64 items show a difference of 12 points or more"
REASONS = {
    "better: 12 of 64 items won, 3 lost, p = 0.035": right(3, 12, 20, 29),
    "cannot tell: no item makes a difference": right(0, 0, 20, 44),
    "cannot tell: there are no items": right(0, 0, 0, 0),
    f"cannot tell: 4 of 64 items won, 4 lost, p = 1; {SHOWN}": right(4, 4, 20, 36),
    "cannot tell: 3 of 4 items won, 0 lost, p = 0.25; 4 items are too few for any verdict": right(0, 3, 1, 0),
}  # fmt: skip


@pytest.mark.parametrize(("reason", "pair"), REASONS.items())
def test_the_reason_is_a_sentence_with_its_numbers(reason, pair):
    assert compare(*pair).reason == reason


def test_the_reason_of_a_mean_has_its_interval():
    values = np.linspace(1, 3, 40)
    found = compare(mean(values), mean(values - 0.1 - 0.01 * np.sin(np.arange(40))), higher_is_better=False)
    assert found.reason == "better: -0.1 (95 % interval -0.103 to -0.098), 40 of 40 items won, 0 lost, p < 0.001"
