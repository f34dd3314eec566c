"""Figures as sums over items: the definitions of scikit-learn and scipy, whole, in resamples and without an item."""

import pytest

pytest.importorskip("scipy")
import numpy as np

from lora_ns.statistics import (
    Indexed,
    compare,
    corpus,
    entity_f1,
    estimate,
    f1,
    matthews,
    mean,
    pearson,
    share,
    spearman,
)
from lora_ns.statistics.groups import Groups, draws
from lora_ns.statistics.measures import IndexStatistic

RANDOM = np.random.default_rng(3)
GOLD = RANDOM.integers(3, size=50)
ANSWERS = np.where(RANDOM.random(50) < 0.7, GOLD, RANDOM.integers(3, size=50))
TWO, OTHER_TWO = np.minimum(GOLD, 1), np.minimum(ANSWERS, 1)
SCORES = RANDOM.normal(size=50).round(1)
NEAR = (SCORES + RANDOM.normal(size=50)).round(1)
TOKENS = RANDOM.integers(1, 30, size=50).astype(float)


def skl(name, **options):
    metrics = pytest.importorskip("sklearn.metrics")
    return lambda answers, gold: getattr(metrics, name)(gold, answers, **options)


def of_scipy(name):
    import scipy.stats

    return lambda one, other: getattr(scipy.stats, name)(one, other).statistic


FIGURES = {
    "accuracy": (lambda a, g: share(a == g), ANSWERS, GOLD, skl("accuracy_score")),
    "binary F1": (f1, OTHER_TWO, TWO, skl("f1_score", zero_division=0)),
    "macro F1": (lambda a, g: f1(a, g, 3), ANSWERS, GOLD, skl("f1_score", average="macro", labels=[0, 1, 2])),
    "Matthews": (matthews, OTHER_TWO, TWO, skl("matthews_corrcoef")),
    "Matthews of three": (lambda a, g: matthews(a, g, 3), ANSWERS, GOLD, skl("matthews_corrcoef")),
    "Pearson": (pearson, NEAR, SCORES, of_scipy("pearsonr")),
    "Spearman": (spearman, NEAR, SCORES, of_scipy("spearmanr")),
    "loss per token": (mean, NEAR, TOKENS, lambda losses, tokens: np.average(losses, weights=tokens)),
}


@pytest.mark.parametrize(("make", "one", "other", "reference"), FIGURES.values(), ids=FIGURES)
def test_a_figure_is_that_of_the_reference_whole_and_in_parts(make, one, other, reference):
    measure, groups = make(one, other), Groups.of(50, None)
    statistic = measure.of(groups)
    assert statistic.value() == pytest.approx(reference(one, other))
    without = statistic.without_each()
    for item in (0, 17, 49):
        kept = np.delete(np.arange(50), item)
        assert without[item] == pytest.approx(reference(one[kept], other[kept]))
    times = next(iter(draws(50, 5, 0)))
    for drawn, found in zip(times, statistic.resampled(times), strict=True):
        items = np.repeat(np.arange(50), drawn.astype(int))
        assert found == pytest.approx(reference(one[items], other[items]))


def test_entities_count_together():
    assert entity_f1([1, 0, 2], [2, 1, 2], [1, 1, 3]).of(Groups.of(3, None)).value() == pytest.approx(2 * 3 / 10)


def test_a_corpus_figure_is_its_formula_of_the_sums():
    found = corpus([[1, 2], [3, 4]], lambda sums: sums[..., 0] / sums[..., 1], (0, 1))
    assert found.of(Groups.of(2, None)).value() == pytest.approx(4 / 6)


def test_a_cluster_is_left_out_and_drawn_as_a_whole():
    groups = Groups.of(6, ["a", "b", "a", "b", "c", "c"])
    statistic = mean([1, 2, 3, 4, 5, 6]).of(groups)
    assert groups.count == 3
    assert groups.are_clusters
    assert statistic.without_each() == pytest.approx([17 / 4, 15 / 4, 10 / 4])
    assert statistic.resampled(np.array([[2.0, 0, 1], [0, 3, 0]])) == pytest.approx([19 / 6, 3])


def test_clusters_of_one_item_are_no_clusters():
    assert not Groups.of(3, ["x", "y", "z"]).are_clusters


def test_a_function_of_indices_equals_the_same_figure_as_sums():
    by_index = Indexed(50, lambda items: float(SCORES[items].mean()))
    groups, times = Groups.of(50, (np.arange(50) // 2).tolist()), next(iter(draws(25, 4, 1)))
    assert isinstance(by_index.of(groups), IndexStatistic)
    assert by_index.of(groups).without_each() == pytest.approx(mean(SCORES).of(groups).without_each())
    assert by_index.of(groups).resampled(times) == pytest.approx(mean(SCORES).of(groups).resampled(times))


WRONG = {
    "a share of halves": (lambda: share([0.5, 1]), "true or false"),
    "a class too many": (lambda: f1([0, 2], [0, 1]), "from 0 to 1"),
    "a class under 0": (lambda: f1([-1, 0], [0, 1]), "from 0 to 1"),
    "sides of two lengths": (lambda: matthews([0, 1, 1], [0, 1]), "predicted and an expected"),
    "a negative weight": (lambda: mean([1, 2], [1, -1]), "not negative"),
    "weights of another length": (lambda: mean([1, 2], [1]), "weight"),
    "clusters of another length": (lambda: estimate(mean([1, 2]), clusters=["a"]), "1 clusters for 2 items"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_values_that_are_none_of_a_figure_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("clusters", [None, [number // 3 for number in range(50)]], ids=["items", "clusters"])
def test_rank_correlations_of_many_resamples_are_those_of_each(clusters):
    one, other = np.round(SCORES[:50], 1), np.round(NEAR[:50], 1)  # some are equal
    measure, groups = spearman(one, other), Groups.of(50, clusters)
    draws = np.random.default_rng(0).multinomial(groups.count, [1 / groups.count] * groups.count, size=20)
    by_index = IndexStatistic(groups, measure.function)
    assert measure.of(groups).resampled(draws) == pytest.approx(by_index.resampled(draws))
    assert measure.of(groups).without_each() == pytest.approx(by_index.without_each())
    assert measure.of(groups).value() == pytest.approx(by_index.value())


def test_rows_that_are_alike_are_drawn_by_their_number(monkeypatch):
    draw = np.random.default_rng(3)
    expected = draw.integers(2, size=300)
    systems = [np.where(draw.random(300) < right, expected, 1 - expected) for right in (0.8, 0.86)]
    found = []
    for most in (100, 0):
        monkeypatch.setattr("lora_ns.statistics.groups._FEW_DISTINCT", most)
        interval = estimate(f1(systems[0], expected)).interval
        p_value = compare(*(f1(one, expected) for one in systems)).p_value
        found.append((interval.low, interval.high, p_value))
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[1], abs=0.006)
