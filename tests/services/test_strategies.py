"""Two processes give the adapter of one, however the work is divided, and go on to the same bits."""

import functools
import json

import pytest
import test_labels_in_processes as labels
import torch
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe
from strategies import (
    BY_DDP_ALONE,
    CLUSTER,
    CLUSTER_STEPS,
    SAMPLE,
    SHARED,
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


def prepare_rows(folder, strategy, rows, *more):
    """Runs of two processes up to the point where they would be started."""
    return {
        name: prepare_run(folder / name, *row.overrides, *more, *STRATEGIES[strategy]) for name, row in rows.items()
    }


def named(runs, rows):
    """The runs as `drive` takes them."""
    return [f"{'+' if rows[name].interrupted else ''}{run.path}" for name, run in runs.items()]


def check_rows(runs, rows, strategy, alone, *more):
    """Hold each run to one process, and those that were interrupted to their own bits."""
    for name, run in runs.items():
        check_trained(run)
        check_same(run, alone(*rows[name].overrides, *more), strategy)
        if rows[name].interrupted:
            expected, got = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS), load_file(run.adapter / WEIGHTS)
            assert all(torch.equal(got[key], value) for key, value in expected.items())


def check_same(run, one, strategy):
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
    assert manifest.seal.largest_difference < 1e-6


def allocated(run):
    """The ranks that AdaLoRA has left to each layer."""
    return json.loads((run.adapter / "adapter_config.json").read_text()).get("rank_pattern")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """What is trained whenever the tests run, all in one pair of processes; the kinds of labels are trained by DDP."""
    folder = tmp_path_factory.mktemp("sampled")
    kinds = labels.prepare_kinds(folder, "ddp", labels.SAMPLE)
    runs = {name: prepare_rows(folder / name, name, rows) for name, rows in SAMPLE.items() if name in offered()}
    texts = [word for name, found in runs.items() for word in named(found, SAMPLE[name])]
    drive([*(f"+{run.path}" for run in kinds.values()), *texts])
    return {**runs, **kinds}


@pytest.mark.parametrize("strategy", [name for name in SAMPLE if name in offered()])
def test_two_processes_give_the_adapter_of_one(sampled, alone, strategy):
    check_rows(sampled[strategy], SAMPLE[strategy], strategy, alone)


@pytest.mark.parametrize("kind", labels.SAMPLE)
def test_two_processes_give_the_classifier_of_one(sampled, tmp_path, kind):
    labels.check_same(sampled[kind], labels.run_kind(tmp_path, kind))


@pytest.mark.cluster
@pytest.mark.parametrize("strategy", offered())
def test_every_strategy_gives_the_adapter_of_one_process(tmp_path, alone, strategy):
    rows, steps = {**CLUSTER, **(BY_DDP_ALONE if strategy == "ddp" else {})}, f"training.max_steps={CLUSTER_STEPS}"
    runs = prepare_rows(tmp_path, strategy, rows, steps)
    drive(named(runs, rows))
    check_rows(runs, rows, strategy, alone, steps)
