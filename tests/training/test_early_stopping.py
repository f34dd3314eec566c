"""Early stopping: what counts as an improvement, when training ends, and that its state survives."""

import pytest

pytest.importorskip("numpy")

import numpy as np

from lora_ns.run.manifest import EARLY
from lora_ns.statistics import mean, share
from lora_ns.training.early_stopping import EarlyStopping

COUNT = 64
HARD = np.random.default_rng(0).gamma(2.0, 1.0, COUNT)
"""How hard each item is, whichever model answers it."""


def losses(shift, seed, noise=0.2):
    return mean((HARD + shift + noise * np.random.default_rng(seed).standard_normal(COUNT)).tolist())


def value(measure):
    return float(measure.rows[:, 1].sum() / measure.rows[:, 0].sum())


def looked(stopping, measures):
    return [stopping.look(step, value(one), one) for step, one in enumerate(measures, start=1)]


@pytest.mark.parametrize("shift", [-0.2, -0.5])
def test_a_gain_beyond_the_paired_noise_counts_however_much_the_items_differ(shift):
    assert HARD.std() > 5 * abs(-0.2)
    stopping = EarlyStopping("loss", False, 1, 0.0)
    assert looked(stopping, [losses(0, 1), losses(shift, 2)]) == [None, None]
    assert stopping.waited == 0


def test_evaluations_that_only_differ_by_noise_end_a_run():
    for seed in range(20):
        stopping = EarlyStopping("loss", False, 3, 0.0)
        found = looked(stopping, [losses(0, 100 * seed + number) for number in range(12)])
        assert any(found), "a plain comparison would go on as long as new minima come"
        assert next(filter(None, found)).startswith(f"{EARLY}`eval_loss` has not improved beyond its noise in 3 eval")


def test_small_gains_add_up_until_they_count():
    stopping = EarlyStopping("loss", False, 8, 0.0)
    assert not any(looked(stopping, [losses(-0.01 * number, number) for number in range(40)]))


@pytest.mark.parametrize("higher", [True, False])
def test_the_direction_and_the_threshold_count(higher):
    sign = 1 if higher else -1
    stopping = EarlyStopping("metric", higher, 2, 0.1)
    values = [1.0, 1.0 + sign * 0.2, 1.0 + sign * 0.25, 1.0 - sign * 0.5]
    assert [bool(stopping.look(step, one)) for step, one in enumerate(values)] == [False, False, False, True]


def test_what_is_not_a_number_is_no_improvement():
    stopping = EarlyStopping("loss", False, 1, 0.0)
    assert stopping.look(1, float("nan"))
    assert stopping.look(2, 1.0) is None
    assert stopping.look(3, float("nan"))


def test_an_evaluation_that_is_the_same_is_no_improvement():
    same = share([True, False, True, True])
    stopping = EarlyStopping("accuracy", True, 2, 0.0)
    assert [bool(one) for one in looked(stopping, [same, same, same])] == [False, False, True]


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path, kept):
    measures = [losses(-0.3, number) for number in range(9)]
    whole = EarlyStopping("loss", False, 4, 0.0)
    expected = looked(whole, measures)
    before = EarlyStopping("loss", False, 4, 0.0)
    looked(before, measures[:kept])
    before.save(tmp_path / "state.json")
    after = EarlyStopping("loss", False, 4, 0.0)
    assert after.restore(tmp_path / "state.json")
    found = [after.look(step + 1, value(one), one) for step, one in enumerate(measures) if step >= kept]
    assert found == expected[kept:]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metric": "loss", "waited": "x", "best": null}', None])
def test_a_state_that_cannot_be_used_is_reported(tmp_path, text):
    if text is not None:
        (tmp_path / "state.json").write_text(text)
    stopping = EarlyStopping("loss", False, 4, 0.0)
    assert not stopping.restore(tmp_path / "state.json")
    assert stopping.look(1, 1.0) is None


def test_the_state_of_another_metric_is_not_used(tmp_path):
    EarlyStopping("f1", True, 4, 0.0).save(tmp_path / "state.json")
    assert not EarlyStopping("loss", False, 4, 0.0).restore(tmp_path / "state.json")
