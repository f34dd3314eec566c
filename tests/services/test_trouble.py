"""What `explain` reads from the metrics of a run, before it replays anything."""

import math
import random
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from lora_ns.services.explain.trouble import find_trouble

MANIFEST = SimpleNamespace(status="finished", error=None, metrics={}, data=SimpleNamespace(eval=None))


def course(levels, noise=0.05, seed=0):
    """Rows of a run whose loss has these levels, with noise."""
    random_ = random.Random(seed)
    return [
        {"step": step, "loss": level * math.exp(noise * random_.gauss(0, 1)), "grad_norm": 1.0}
        for step, level in enumerate(levels, 1)
    ]


FALLING = [2.0 * math.exp(-step / 30) + 0.5 for step in range(100)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("levels", "kind"),
    [
        (FALLING, None),
        ([*FALLING, *([0.57] * 100)], None),
        ([*FALLING[:60], *[0.8 + 0.05 * step for step in range(60)]], "diverged"),
        ([2.0 + 0.1 * step for step in range(50)], "diverged"),
        ([0.8, 0.7, 5.4, 80.0, 105.0, 88.0, 47.0, 71.0, 66.0], "diverged"),
        ([*FALLING[:50], *([6.0] * 50)], "diverged"),
        ([2.0] * 100, "flat"),
    ],
    ids=["falls", "falls and stays", "rises again", "rises at once", "explodes", "jumps", "flat"],
)
def test_the_course_of_the_loss_gets_its_name_whatever_the_noise(levels, kind, seed):
    found = find_trouble(MANIFEST, course(levels, seed=seed))
    assert (found and found.kind) == kind


def test_the_last_good_step_is_the_one_before_the_loss_rises():
    found = find_trouble(MANIFEST, course([*FALLING[:60], *([6.0] * 40)]))
    assert 50 <= found.step <= 60
    assert "until step" in found.what


@pytest.mark.parametrize("name", ["loss", "eval_loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_no_number_breaks_a_run_at_the_step_before(name, value):
    rows = course(FALLING[:40])
    found = find_trouble(MANIFEST, [*rows, {"step": 41, "loss": 1.0, name: value}])
    assert (found.kind, found.step) == ("broken", 40)
    assert f"`{name}` is {value}" in found.what


def test_a_run_that_breaks_after_its_loss_rose_went_wrong_where_it_rose():
    rows = course([*FALLING[:60], *[0.8 + 0.5 * step for step in range(40)]])
    found = find_trouble(MANIFEST, [*rows, {"step": 101, "loss": math.nan}])
    assert (found.kind, found.seen) == ("broken", 101)
    assert 50 <= found.step <= 60


def test_a_run_that_ended_before_the_figure_was_logged_is_broken():
    failed = SimpleNamespace(**{**vars(MANIFEST), "status": "failed", "error": "step 4: the gradient of `x` is nan"})
    found = find_trouble(failed, course(FALLING[:3]))
    assert (found.kind, found.step) == ("broken", 3)


@pytest.mark.parametrize(("rows", "kind"), [([1.0, 0.999, 1.3], "flat"), ([1.0, 0.7, 1.3], None), ([1.0, 0.5], None)])
def test_the_best_evaluation_counts(rows, kind):
    evaluated = [{"step": 10 * at, "eval_loss": loss} for at, loss in enumerate(rows)]
    found = find_trouble(MANIFEST, evaluated)
    assert (found and found.kind) == kind


@pytest.mark.parametrize(("accuracy", "kind"), [(0.50, "flat"), (0.55, "flat"), (0.45, "flat"), (0.62, None)])
def test_a_classifier_has_to_beat_a_constant_answer_by_more_than_chance(accuracy, kind):
    metrics = {"eval_accuracy": accuracy, "baseline/eval_accuracy": 0.5, "eval_f1": 0.4, "baseline/eval_f1": 0.66}
    data = SimpleNamespace(eval=SimpleNamespace(rows=300))
    manifest = SimpleNamespace(**{**vars(MANIFEST), "metrics": metrics, "data": data})
    found = find_trouble(manifest, course(FALLING))
    assert (found and found.kind) == kind
