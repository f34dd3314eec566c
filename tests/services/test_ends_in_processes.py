"""Two processes agree on how a run ends: by early stopping, by its time limit, after skipped steps; and on the best."""

import json

import pytest

pytest.importorskip("torch")

import torch
from once import once
from ranks_driver import AS_TRAINED_AT_ONCE, POISON
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe
from strategies import SHARED, STRATEGIES, check_trained, drive, offered, prepare_run

from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.best_adapter import find_best
from lora_ns.run.manifest import EARLY, IN_TIME
from lora_ns.services.verify_lineage import verify_lineage

pytestmark = pytest.mark.cluster

BEST = ("training.eval_steps=2", "training.save_steps=2", "training.load_best_model_at_end=true")
HIGHEST = ("training.extra.greater_is_better=true",)
"""The highest loss, which is that of the first evaluation."""
EARLY_END = (*BEST, *HIGHEST, "training.early_stopping_patience=1", "training.early_stopping_threshold=100.0")
ENDS = {"early": EARLY_END, "+best": BEST, "in-time": (*BEST, *HIGHEST, "training.max_time=1"), "poisoned": EARLY_END}
POISONED = 2


@pytest.fixture(scope="module", params=[name for name in ("ddp", "fsdp", "zero2") if name in offered()])
def runs(request, tmp_path_factory):
    """The runs of a strategy, which one pair of processes has trained."""
    strategy = request.param

    def train(folder):
        ends = {name: more for name, more in ENDS.items() if name != "poisoned" or strategy == "ddp"}
        made = {name: prepare_run(folder / name, *more, *STRATEGIES[strategy]) for name, more in ends.items()}
        if "poisoned" in made:
            (made["poisoned"].path / POISON).write_text(json.dumps([POISONED]))
        drive([f"{'+' if name.startswith('+') else ''}{run.path}" for name, run in made.items()])
        return made

    return strategy, once(tmp_path_factory, f"ends-{strategy}", train)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_recipe(tmp_path_factory.mktemp("alone"), RECIPE, *SHARED, *EARLY_END)


def test_early_stopping_ends_all_processes_with_the_best_adapter(runs, alone):
    run = runs[1]["early"]
    check_trained(run)
    manifest, one = run.read(), alone.read()
    assert manifest.ended.startswith(EARLY)
    assert (manifest.best.step, manifest.adapter_step) == (one.best.step, one.adapter_step) == (2, 2)
    expected = load_file(alone.adapter / WEIGHTS)
    for folder in (run.adapter, run.best):
        got = load_file(folder / WEIGHTS)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    assert manifest.seal.largest_difference < 1e-6
    assert verify_lineage(run.path).is_whole


def test_the_best_adapter_is_kept_through_an_interruption(runs):
    run = runs[1]["+best"]
    check_trained(run)
    expected, got = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    assert find_best(run, run.read().run_id).record == run.read().best


def test_the_time_limit_ends_all_processes(runs):
    run = runs[1]["in-time"]
    check_trained(run)
    manifest = run.read()
    assert manifest.ended.startswith(f"{IN_TIME}stopped after step 1 of 6")
    assert manifest.best.step == manifest.adapter_step == 1
    assert "eval_loss" in manifest.metrics


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(runs):
    strategy, made = runs
    if strategy != "ddp":
        pytest.skip("the parameters with the spoiled gradients are replaced by sharded ones")
    run = made["poisoned"]
    check_trained(run)
    found = [json.loads(line) for line in run.bad_batch.read_text().splitlines()]
    assert {(row["step"], row["rank"]) for row in found} == {(POISONED, 0), (POISONED, 1)}
    assert all(row["where"] == f"train.jsonl:{row['row']}" for one in found for row in one["rows"])
    assert run.read().ended.startswith(EARLY)
