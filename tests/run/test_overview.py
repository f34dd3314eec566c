"""What the files of a run say about it: whole, damaged, half-written, and of a process that is gone."""

import contextlib
import fcntl
import json
import os
import time

import pytest
from run_folders import manifest, rows, write_evaluation, write_run

from lora_ns.files.locks import is_locked
from lora_ns.run import overview as module
from lora_ns.run.overview import QUIET_SECONDS, overview, seconds_left


@contextlib.contextmanager
def locked(folder):
    """Another process that trains this run, as far as its lock shows."""
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def test_a_finished_run_is_described_by_its_files(tmp_path):
    run = write_run(tmp_path / "run", manifest("run"), rows())
    found = overview(run)
    assert (found.status, found.step, found.max_steps, found.progress) == ("finished", 100, 100, 1.0)
    assert (found.data, found.rows, found.method, found.objective, found.base) == (
        "rows.jsonl", 64, "lora", "sft", "owner/base",
    )  # fmt: skip
    assert found.best.name == "eval_loss"
    assert found.best.step == 100
    assert found.size == sum(file.stat().st_size for file in run.iterdir())
    assert found.notes == ()


def test_the_figure_of_the_newest_evaluation_is_the_best_one_with_its_interval(tmp_path):
    run = write_run(tmp_path / "run", logged=rows())
    write_evaluation(run, [0.0, 1.0], number=9)
    write_evaluation(run, [1.0, 1.0, 1.0, 0.0], number=10)
    best = overview(run).best
    assert (best.name, best.value, best.is_share) == ("exact match.exact_match", 0.75, True)
    assert (best.low, best.high) == (0.65, 0.85)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"suites": 3}', '{"suites": [{"whole": {"figures": {"a": 1}}}]}'])
def test_a_damaged_evaluation_is_passed_over(tmp_path, text):
    run = write_run(tmp_path / "run", logged=rows())
    (write_evaluation(run, [1.0]) / "results.json").write_text(text)
    assert overview(run).best.name == "eval_loss"


@pytest.mark.parametrize(
    ("training", "name", "step"),
    [
        ({}, "eval_loss", 20),
        ({"metric_for_best_model": "accuracy"}, "eval_accuracy", 10),
        ({"metric_for_best_model": "eval_accuracy"}, "eval_accuracy", 10),
        ({"extra": {"metric_for_best_model": "wer", "greater_is_better": False}}, "eval_wer", 20),
    ],
)
def test_the_metric_of_the_recipe_chooses_the_best_step(tmp_path, training, name, step):
    table = manifest()
    table["recipe"]["training"] |= training
    logged = [
        {"step": 0, "eval_loss": 0.0, "eval_accuracy": 1.0, "eval_wer": 0.0},
        {"step": 10, "eval_loss": 2.0, "eval_accuracy": 0.9, "eval_wer": 0.5},
        {"step": 20, "eval_loss": 1.0, "eval_accuracy": 0.8, "eval_wer": 0.4},
    ]
    best = overview(write_run(tmp_path / "run", table, logged)).best
    assert (best.name, best.step) == (name, step)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"run_id": 1}', "[" * 5000, "\x00" * 100])
def test_a_damaged_manifest_is_a_note(tmp_path, text):
    found = overview(write_run(tmp_path / "run", text))
    assert found.status == "damaged"
    assert "manifest.json" in found.notes[0]


@pytest.mark.parametrize("odd", [None, 3, "text", [], {"value": "x"}, {"value": True}, {"value": -1}])
def test_values_of_another_kind_are_left_out(tmp_path, odd):
    table = manifest(plan={"max_steps": odd, "objective": odd}, base=odd, data=odd, metrics=odd, created=odd, error=odd)
    table["recipe"] = odd
    found = overview(write_run(tmp_path / "run", table, rows(3)))
    assert found.step == 3
    assert found.max_steps is None


def test_an_unknown_status_is_damage(tmp_path):
    found = overview(write_run(tmp_path / "run", manifest(status="excellent")))
    assert found.status == "damaged"
    assert "excellent" in found.notes[0]


def test_half_a_line_and_lines_that_are_no_rows_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", logged=rows(30))
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\x00\x00\n[1]\n{"step": true}\n{"step": "9"}\n\xff\n{"step": 99, "lo')
    found = overview(run)
    assert found.step == 30
    assert found.loss == pytest.approx(next(row["loss"] for row in rows(30) if row["step"] == 30))


def test_only_the_end_of_a_long_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_TAIL", 2000)
    run = write_run(tmp_path / "run", logged=rows(1000, eval_every=100))
    assert overview(run).step == 1000


@pytest.mark.parametrize("status", ["started", "running"])
def test_a_run_whose_lock_nobody_holds_was_killed(tmp_path, status):
    run = write_run(tmp_path / "run", manifest(status=status), rows(10))
    with locked(run):
        assert overview(run).status == status
    if is_locked(run) is None:
        pytest.skip("locks of this disk cannot be judged")
    found = overview(run)
    assert found.status == "killed"
    assert found.notes


@pytest.mark.parametrize(("quiet", "status"), [(0.0, "running"), (QUIET_SECONDS * 2, "killed")])
def test_where_locks_are_unknown_the_age_of_the_files_decides(tmp_path, monkeypatch, quiet, status):
    monkeypatch.setattr(module, "is_locked", lambda _: None)
    run = write_run(tmp_path / "run", manifest(status="running"), rows(10))
    assert overview(run, now=time.time() + quiet).status == status


def test_a_look_leaves_the_lock_free(tmp_path):
    run = write_run(tmp_path / "run", manifest(status="running"))
    overview(run)
    with locked(run):
        assert is_locked(run)


def test_a_run_that_waits_for_its_launcher_was_not_killed(tmp_path):
    run = write_run(tmp_path / "run", manifest(status="started", awaits_launcher=True))
    assert overview(run).status == "started"


@pytest.mark.parametrize(
    ("clocks", "left"),
    [
        ([(10, 20.0), (20, 40.0)], 160.0),
        ([(10, 20.0)], 180.0),
        ([(40, 80.0), (50, 10.0), (60, 20.0)], 40.0),  # resumed after step 40
        ([(40, 80.0), (50, 10.0)], None),
        ([], None),
        ([(100, 200.0)], 0.0),
    ],
)
def test_the_time_left_follows_the_pace_since_the_run_was_resumed(clocks, left):
    logged = [{"step": step, "train_runtime": clock} for step, clock in clocks]
    assert seconds_left(logged, 100) == (left if left is None else pytest.approx(left))


def test_secrets_in_an_error_are_hidden(tmp_path):
    table = manifest(status="failed", error="cannot read https://user:hunter2@example.org/rows")
    assert "hunter2" not in overview(write_run(tmp_path / "run", table)).error


@pytest.mark.parametrize("what", ["folder", "missing"])
def test_metrics_that_are_no_file_are_no_failure(tmp_path, what):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    if what == "folder":
        (run / "metrics.jsonl").mkdir()
    assert overview(run).step == 0


def test_nan_and_infinity_are_no_best_values(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 1, "eval_loss": NaN}\n{"step": 2, "eval_loss": Infinity}\n')
    assert overview(run).best is None
    assert json.dumps(overview(run).step) == "2"
