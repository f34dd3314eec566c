"""A step without a finite gradient is skipped and recorded with its rows; three in a row end the run."""

import json

import pytest
from poisoner import Poisoner
from services_recipes import RECIPE, resumed, run_recipe

from lora_ns.errors import RunError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir

pytest.importorskip("transformers")


def recorded(run):
    return [json.loads(line) for line in run.bad_batch.read_text().splitlines()]


def timeless(run):
    """The logged rows without what depends on the machine."""
    machine = ("runtime", "per_second", "memory")
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [{name: row[name] for name in row if not any(part in name for part in machine)} for row in rows]


def is_finite(folder):
    from safetensors.torch import load_file

    return all(bool(value.isfinite().all()) for value in load_file(folder / WEIGHTS).values())


def test_a_bad_step_is_skipped_and_the_run_finishes(tmp_path):
    poisoner = Poisoner(2, 4)
    run = run_recipe(tmp_path, RECIPE, "training.logging_steps=1", observer=poisoner)
    assert run.read().status == "finished"
    assert is_finite(run.adapter)
    assert [row["step"] for row in recorded(run)] == [2, 4]
    assert sum("is skipped, because its gradient is not finite" in text for text in poisoner.warnings) == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} >= {1, 2, 3, 4, 5, 6}
    found = recorded(run)[0]["rows"]
    assert len(found) == 8
    assert all(1 <= row["row"] <= 64 and row["text"] for row in found)
    assert all(row["where"] == f"train.jsonl:{row['row']}" for row in found)


def test_a_device_that_is_ahead_of_the_host_skips_the_same_steps(tmp_path, monkeypatch):
    """On a GPU, nothing waits for the norm of a gradient, so the host learns of a bad step later."""
    from late import LateByTwo

    overrides = ("training.logging_steps=4", "training.max_steps=12", "training.save_steps=12")
    (tmp_path / "now").mkdir()
    (tmp_path / "late").mkdir()
    now = run_recipe(tmp_path / "now", RECIPE, *overrides, observer=Poisoner(2, 7, 8, 11))
    monkeypatch.setattr("lora_ns.training.later.Later.is_late", staticmethod(LateByTwo.is_late))
    monkeypatch.setattr("lora_ns.training.later.Later._copied", LateByTwo._copied)
    late = run_recipe(tmp_path / "late", RECIPE, *overrides, observer=Poisoner(2, 7, 8, 11))
    assert recorded(late) == recorded(now)
    assert (late.adapter / WEIGHTS).read_bytes() == (now.adapter / WEIGHTS).read_bytes()
    assert timeless(late) == timeless(now)


def test_three_in_a_row_end_the_run_with_the_weights_before_them(tmp_path):
    with pytest.raises(RunError, match="the gradient of 3 steps in a row was not finite, up to step 5"):
        run_recipe(tmp_path, RECIPE, observer=Poisoner(3, 4, 5))
    run = RunDir.open(tmp_path / "run")
    assert run.read().status == "failed"
    assert [row["step"] for row in recorded(run)] == [3, 4, 5]
    assert is_finite(run.checkpoints / "checkpoint-5")
    resumed(run)
    assert run.read().status == "finished"
    assert is_finite(run.adapter)
