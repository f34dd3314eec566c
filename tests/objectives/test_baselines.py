"""What constant answers reach, and that a model which is no better is said to be."""

import itertools
import json
import math
import random
from importlib.util import find_spec

import pytest

from lora_ns.objectives.baselines import Baseline
from lora_ns.objectives.label_loss import labels_that_count
from lora_ns.objectives.metrics import multi_label_metrics

needs_metrics = pytest.mark.skipif(find_spec("sklearn") is None, reason="measured by scikit-learn")

MULTI = "multi_label_classification"
TABLE = {
    "scores": ("regression", (), [1.0, 2.0, 6.0], [3.0, 5.0], {"rmse": 3.0}, {"rmse": math.sqrt(2.0)}),
    "two classes": (
        "single_label_classification",
        ("no", "yes"),
        [0, 0, 1],
        [0, 1, 1, 1],
        {"accuracy": "no", "f1": "yes"},
        {"accuracy": 0.25, "f1": 6 / 7},
    ),
    "three classes": (
        "single_label_classification",
        ("a", "b", "c"),
        [2, 1, 2],
        [2, 2, 0, 1],
        {"accuracy": "c", "f1": "c"},
        {"accuracy": 0.5, "f1": 2 / 9},
    ),
    "several labels": (
        MULTI,
        ("a", "b", "c"),
        [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        {"f1_micro": ["a"], "f1_macro": ["a", "b", "c"], "subset_accuracy": ["a"]},
        {"f1_micro": 0.5, "f1_macro": 4 / 9, "subset_accuracy": 0.5},
    ),
    "entities": (
        None,
        ("O", "B-X", "I-X"),
        [[1, 2, 0]],
        [[0, 1], [0, 0]],
        {"accuracy": "O", "f1": "O", "f1_macro": "O"},
        {"accuracy": 0.75, "f1": 0.0},
    ),
    "parts of speech": (
        None,
        ("DET", "NOUN"),
        [[0, 1, 1]],
        [[0, 1]],
        {"accuracy": "NOUN", "f1": "NOUN", "f1_macro": "NOUN"},
        {"accuracy": 0.5, "f1_macro": 1 / 3},
    ),
}


@needs_metrics
@pytest.mark.parametrize(("kind", "labels", "learned", "expected", "constants", "reached"), TABLE.values(), ids=TABLE)
def test_constants_are_those_of_the_training_rows_and_measured_on_others(
    kind, labels, learned, expected, constants, reached
):
    baseline = Baseline.of(kind, labels, learned)
    assert baseline.constants == constants
    assert baseline.measure(expected) == pytest.approx(reached)


@needs_metrics
def test_no_other_labels_have_a_higher_micro_f1_on_the_training_rows():
    draw = random.Random(4)
    names = tuple("abcd")
    for _ in range(20):
        rows = [[float(draw.random() < share) for share in (0.7, 0.4, 0.3, 0.1)] for _ in range(15)]
        if not any(map(any, rows)):
            continue
        found = Baseline.of(MULTI, names, rows).measure(rows)
        every = [[int(value) for value in row] for row in itertools.product((0, 1), repeat=4)]
        numbers = [[int(value) for value in row] for row in rows]
        best = [multi_label_metrics([row] * len(rows), numbers) for row in every]
        for name in found:
            assert found[name] == max(one[name] for one in best)


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ({"rmse": 1.592}, ["worse than always answering the mean: RMSE 1.592, the mean has 1.545"]),
        ({"rmse": 1.545}, ["no better than always answering the mean: RMSE 1.545, the mean has 1.545"]),
        ({"rmse": 1.2}, []),
        ({}, []),
    ],
)
def test_a_score_is_held_against_the_mean(measured, told):
    assert Baseline("regression", (), {"rmse": 2.6}).unbeaten(measured, {"rmse": 1.545}) == told


def test_each_metric_is_held_against_its_own_constant():
    classes = Baseline("single_label_classification", ("no", "yes"), {"accuracy": "no", "f1": "yes"})
    reached = {"accuracy": 0.6, "f1": 0.7}
    assert classes.unbeaten({"accuracy": 0.7, "f1": 0.5, "recall": 0.1}, reached) == [
        "worse than always answering `yes`: F1 0.5, `yes` has 0.7"
    ]
    several = Baseline(MULTI, ("a", "b"), {"f1_micro": ["a", "b"], "subset_accuracy": []})
    assert several.unbeaten({"f1_micro": 0.2, "subset_accuracy": 0.5}, {"f1_micro": 0.4, "subset_accuracy": 0.5}) == [
        "worse than always answering `a`, `b`: micro F1 0.2, `a`, `b` have 0.4",
        "no better than always answering no label: subset accuracy 0.5, no label has 0.5",
    ]


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([1.5, math.nan, -100.0], [1.5, -100.0]),
        ([3, -100, 0], [3, 0]),
        ([[1.0, 0.0], [math.nan, math.nan]], [[1.0, 0.0]]),
        ([[-100, 2, -100, 0], [-100, -100]], [[2, 0]]),
    ],
)
def test_rows_that_fill_up_a_batch_and_tokens_within_words_do_not_count(labels, found):
    assert labels_that_count({"labels": labels}) == found


@needs_metrics
def test_what_is_kept_of_a_baseline_is_enough_to_measure_it_again():
    for kind, labels, learned, expected, _, reached in TABLE.values():
        kept = json.loads(json.dumps(Baseline.of(kind, labels, learned).constants))
        assert Baseline(kind, labels, kept).measure(expected) == pytest.approx(reached)
