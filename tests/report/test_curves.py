"""Curves are read as far as they are whole, and thinned without losing what stands out."""

import math
import random

import pytest

from lora_ns.report.curves import Curves, Series, curves_of, noise, read_curves, speed, thin


def test_every_number_of_a_row_is_a_curve(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 0, "eval_loss": 2}\n{"step": 1, "loss": 1.5, "note": "x", "flag": true, "none": null}\n{"st'
    )
    found = read_curves(file)
    assert {name: (list(one.steps), list(one.values)) for name, one in found.series.items()} == {
        "eval_loss": ([0], [2]),
        "loss": ([1], [1.5]),
    }
    assert found.notes == ("metrics.jsonl: 1 line is not a row of this run, skipped",)
    assert (found.last_step, found["missing"].last) == (1, pytest.approx(math.nan, nan_ok=True))


def test_a_file_that_is_not_there_has_no_curves(tmp_path):
    assert read_curves(tmp_path / "metrics.jsonl") == Curves()


def test_a_step_that_is_logged_again_replaces_the_first():
    rows = [{"step": step, "loss": value} for step, value in ((1, 1.0), (3, 3.0), (2, 2.0), (3, 4.0))]
    found = curves_of(rows)["loss"]
    assert (found.steps, found.values) == ([1, 2, 3], [1.0, 2.0, 4.0])


@pytest.mark.parametrize("count", [1, 3, 99, 100, 101, 20_000])
@pytest.mark.parametrize("most", [2, 10, 100])
def test_a_thinned_series_keeps_its_ends_and_extremes(count, most):
    rng = random.Random(count)
    values = [rng.gauss(0, 1) for _ in range(count)]
    found = thin(Series(list(range(count)), values), most)
    assert len(found) <= max(most, 2)
    assert (found.steps[0], found.steps[-1]) == (0, count - 1)
    assert list(found.steps) == sorted(set(found.steps))
    assert all(values[step] == value for step, value in zip(found.steps, found.values, strict=True))
    if most >= 10:
        assert min(values) in found.values
        assert max(values) in found.values


def test_what_is_no_number_stands_out_most():
    values = [1.0] * 1000
    values[517] = math.nan
    assert any(map(math.isnan, thin(Series(list(range(1000)), values), 20).values))


def test_the_band_holds_the_noise_and_not_the_trend():
    pytest.importorskip("numpy")
    rng = random.Random(0)
    values = [10 - step / 100 + rng.gauss(0, 0.1) for step in range(1000)]
    found = noise(Series(list(range(1000)), values))
    inside = sum(
        low <= values[step] <= high for step, low, high in zip(found.steps, found.low, found.high, strict=True)
    )
    assert 0.9 < inside / len(found.steps) < 0.99
    assert all(high - low < 0.6 for low, high in zip(found.low, found.high, strict=True))


@pytest.mark.parametrize("count", range(8))
def test_a_few_values_have_no_noise(count):
    assert noise(Series(list(range(count)), [1.0] * count)) is None


def test_the_speed_is_that_between_rows():
    rows = [
        {"step": step, "num_input_tokens_seen": tokens, "train_runtime": seconds}
        for step, tokens, seconds in ((1, 100, 1), (2, 300, 2), (3, 400, 4), (4, 500, 1), (5, 600, 2))  # resumed at 4
    ]
    found = speed(Curves(curves_of(rows)))
    assert (list(found.steps), list(found.values)) == ([2, 3, 5], [200, 50, 100])


def test_json_has_no_nan():
    assert Series([1, 2], [math.inf, 1.0]).as_table() == {"steps": [1, 2], "values": [None, 1.0]}
