"""Two processes give the adapter of one, however the work is divided, and go on to the same bits."""

import functools
import json

import pytest
import torch
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file, save_file
from services_recipes import RECIPE, run_recipe
from strategies import (
    BY_DDP_ALONE,
    CLUSTER,
    CLUSTER_STEPS,
    SAMPLE,
    SHARED,
    STARTS,
    STRATEGIES,
    check_trained,
    drive,
    offered,
    prepare_run,
)

from lora_ns.engine.adapter import WEIGHTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The run of one process for a recipe."""

    @functools.cache
    def run(*overrides):
        return run_recipe(tmp_path_factory.mktemp("alone"), RECIPE, *SHARED, *overrides)

    return run


def check_strategy(folder, strategy, rows, alone, *more):
    """Train all rows under a strategy, hold each to one process, and those that were interrupted to their own bits."""
    said = {name: (*row.overrides, *more) for name, row in rows.items()}
    runs = {name: prepare_run(folder / name, *said[name], *STRATEGIES[strategy]) for name in rows}
    drive([f"{'+' if rows[name].interrupted else ''}{run.path}" for name, run in runs.items()])
    for name, run in runs.items():
        check_trained(run)
        check_same(run, alone(*said[name]), strategy, rows[name].seal)
        if rows[name].interrupted:
            expected, got = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS), load_file(run.adapter / WEIGHTS)
            assert all(torch.equal(got[key], value) for key, value in expected.items())


def check_same(run, one, strategy, seal=1e-6):
    manifest, alone = run.read(), one.read()
    kind = "deepspeed" if strategy.startswith("zero") else strategy
    assert manifest.distributed.model_dump() == {"strategy": kind, "world_size": 2, "backend": "gloo"}
    if kind == "deepspeed":
        assert manifest.plan.deepspeed["zero_optimization"]["stage"] == int(strategy[-1])
    expected, got = load_file(one.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    assert allocated(run) == allocated(one)
    for name in ("before/eval_loss", "eval_loss", "eval_mean_token_accuracy"):
        assert manifest.metrics[name] == pytest.approx(alone.metrics[name], abs=1e-4)
    assert manifest.seal.largest_difference < seal


def allocated(run):
    """The ranks that AdaLoRA has left to each layer."""
    return json.loads((run.adapter / "adapter_config.json").read_text()).get("rank_pattern")


@pytest.mark.parametrize("strategy", [name for name in SAMPLE if name in offered()])
def test_two_processes_give_the_adapter_of_one(tmp_path, alone, strategy):
    check_strategy(tmp_path, strategy, SAMPLE[strategy], alone)


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", offered())
def test_every_strategy_gives_the_adapter_of_one_process(tmp_path, alone, strategy):
    rows = {**CLUSTER, **(BY_DDP_ALONE if strategy == "ddp" else {})}
    check_strategy(tmp_path, strategy, rows, alone, f"training.max_steps={CLUSTER_STEPS}")


def test_a_start_is_computed_once_for_two_processes(tmp_path, alone):
    check_strategy(tmp_path, "ddp", {start: STARTS[start] for start in ("lora_ga", "pissa")}, alone)


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", [name for name in ("ddp", "zero2", "fsdp") if name in offered()])
def test_every_start_is_that_of_one_process(tmp_path, alone, strategy):
    rows = STARTS if strategy == "ddp" else {start: STARTS[start] for start in ("eva", "lora_ga")}
    check_strategy(tmp_path, strategy, rows, alone)


def test_each_of_two_machines_has_whole_checkpoints_and_begins_as_the_first(tmp_path, alone):
    meeting = ("distributed.num_nodes=2", "distributed.rdzv_endpoint=127.0.0.1:29500")
    pissa = STARTS["pissa"]
    said = (*STRATEGIES["fsdp"], *meeting, *pissa.overrides)
    runs = [prepare_run(tmp_path / name, *said, processes=1) for name in ("first", "second")]
    round_otherwise(runs[1].start / WEIGHTS)
    drive([f"+{runs[0].path},{runs[1].path}"])
    expected = load_file(runs[0].path / AS_TRAINED_AT_ONCE / WEIGHTS)
    for run in runs:
        check_trained(run)
        check_same(run, alone(*pissa.overrides), "fsdp", pissa.seal)
        got = load_file(run.adapter / WEIGHTS)
        assert all(torch.equal(got[key], value) for key, value in expected.items())


def round_otherwise(file):
    """Compute a start as another kind of machine does, whose last bits are others."""
    save_file({name: value * 1.001 for name, value in load_file(file).items()}, file)
