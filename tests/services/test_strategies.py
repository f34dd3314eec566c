"""Two processes give the adapter of one, however the work is divided, and go on to the same bits."""

import pytest
import torch
from ranks_driver import AS_TRAINED_AT_ONCE
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe
from strategies import METHODS, SHARED, STRATEGIES, check_trained, drive, offered, prepare_run

from lora_ns.engine.adapter import WEIGHTS
from lora_ns.recipe.load import load_recipe

pytestmark = pytest.mark.slow

CELLS = [(strategy, method) for strategy in offered() for method in METHODS]
INTERRUPTED = ("lora", "prompt-tuning")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process for each method."""
    folder = tmp_path_factory.mktemp("alone")
    runs = {}
    for method, overrides in METHODS.items():
        (folder / method).mkdir()
        runs[method] = run_recipe(folder / method, RECIPE, *SHARED, *overrides)
    return runs


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A run of two processes for each strategy and method."""
    folder = tmp_path_factory.mktemp("together")
    runs = {
        (strategy, method): prepare_run(folder / f"{strategy}-{method}", *METHODS[method], *STRATEGIES[strategy])
        for strategy, method in CELLS
    }
    drive([f"{'+' if method in INTERRUPTED else ''}{run.path}" for (_, method), run in runs.items()])
    return runs


@pytest.mark.parametrize(("strategy", "method"), CELLS)
def test_two_processes_give_the_adapter_of_one(alone, together, strategy, method):
    run, one = together[strategy, method], alone[method]
    check_trained(run)
    manifest = run.read()
    kind = "deepspeed" if strategy.startswith("zero") else strategy
    assert manifest.distributed.model_dump() == {"strategy": kind, "world_size": 2, "backend": "gloo"}
    expected, got = load_file(one.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=1e-4, rtol=0)
    for name in ("before/eval_loss", "eval_loss", "eval_mean_token_accuracy"):
        assert manifest.metrics[name] == pytest.approx(one.read().metrics[name], abs=1e-4)
    assert manifest.seal.largest_difference < 1e-6


@pytest.mark.parametrize(("strategy", "method"), [cell for cell in CELLS if cell[1] in INTERRUPTED])
def test_an_interrupted_run_goes_on_to_the_same_bits(together, strategy, method):
    run = together[strategy, method]
    check_trained(run)
    expected, got = load_file(run.path / AS_TRAINED_AT_ONCE / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert expected.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_what_deepspeed_is_told_is_in_the_run(together):
    for (strategy, _), run in together.items():
        settings = run.read().plan.deepspeed
        assert (settings is not None) == strategy.startswith("zero")
        if settings:
            assert settings["zero_optimization"]["stage"] == int(strategy[-1])
            assert settings["train_batch_size"] == load_recipe(run.recipe).recipe.training.global_batch_size
