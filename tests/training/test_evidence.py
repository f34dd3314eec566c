"""The items behind a metric give the metric that the trainer logs."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("seqeval")
pytest.importorskip("scipy")

import numpy as np

from lora_ns.objectives.classification import Classification
from lora_ns.objectives.tagging import Tagging
from lora_ns.statistics import value_of
from lora_ns.table import IGNORED
from lora_ns.training.eval_loss import interval_of
from lora_ns.training.evidence import Evidence

RNG = np.random.default_rng(0)
TAGS = ("O", "B-PER", "I-PER", "B-LOC")
CASES = {
    "classes": (Classification(), ("a", "b", "c"), "single_label_classification"),
    "two classes": (Classification(), ("a", "b"), "single_label_classification"),
    "labels": (Classification(), ("a", "b", "c"), "multi_label_classification"),
    "scores": (Classification(), (), "regression"),
    "tags": (Tagging(), TAGS, None),
}


def predictions(name, labels):
    """Logits and labels of 12 rows, of which the last ones fill up a batch."""
    if name == "scores":
        return RNG.standard_normal((12, 1)), np.array([*RNG.standard_normal(10), np.nan, np.nan])
    if name == "labels":
        expected = RNG.integers(0, 2, (12, len(labels))).astype(float)
        expected[10:] = np.nan
        return RNG.standard_normal((12, len(labels))), expected
    if name == "tags":
        expected = RNG.integers(0, len(labels), (12, 6))
        expected[:, 4:] = IGNORED
        expected[10:] = IGNORED
        return RNG.integers(0, len(labels), (12, 6)), expected
    expected = RNG.integers(0, len(labels), 12)
    expected[10:] = IGNORED
    return RNG.standard_normal((12, len(labels))), expected


@pytest.mark.parametrize("name", CASES)
def test_the_figures_of_labels_are_those_of_the_trainer(name):
    objective, labels, problem_type = CASES[name]
    logits, expected = predictions(name, labels)
    logged = objective.metrics(logits[:10], expected[:10], labels, problem_type)
    evidence = Evidence(SimpleNamespace(objective=objective), labels)
    trainer = SimpleNamespace(compute_metrics=lambda _: logged, problem_type=problem_type)
    evidence.watch(trainer)
    assert evidence.measured("accuracy") is None, "nothing has been evaluated yet"
    assert trainer.compute_metrics(SimpleNamespace(predictions=logits, label_ids=expected)) is logged
    for metric, value in logged.items():
        if (measure := evidence.measured(metric)) is not None:
            assert value_of(measure) == pytest.approx(value, abs=1e-9), metric
    known = {"classes": "f1", "two classes": "f1", "labels": "f1_micro", "scores": "rmse", "tags": "accuracy"}
    assert evidence.measured(known[name]) is not None


def test_the_loss_is_the_mean_of_its_batches():
    evidence = Evidence(SimpleNamespace(objective=None), ())
    assert evidence.measured("loss") is None
    evidence.watch(SimpleNamespace(eval_units=[(1.0, 3), (2.0, 1)]))
    assert value_of(evidence.measured("loss")) == 1.25
    assert evidence.measured("rewards/margins") is None


def test_the_interval_of_an_evaluation_loss_is_that_of_its_batches():
    losses, counts = RNG.uniform(1, 2, 30).tolist(), RNG.integers(50, 90, 30).tolist()
    found = interval_of(list(zip(losses, counts, strict=True)))
    value = float(np.average(losses, weights=counts))
    assert found["eval_loss_low"] < value < found["eval_loss_high"]
    width = 2 * 2.05 * np.std(losses) / 30**0.5
    assert found["eval_loss_high"] - found["eval_loss_low"] == pytest.approx(width, rel=0.15)


@pytest.mark.parametrize(
    "units", [[], [(1.0, 8), (2.0, 8)], [(1.0, 8)] * 9, [(math.nan, 8), *[(1.0, 8), (2.0, 8)] * 3]]
)
def test_an_evaluation_loss_without_known_noise_has_no_interval(units):
    assert interval_of(units) == {}
