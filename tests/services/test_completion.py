"""Runs that keep their best adapter, end early or in time, and are used at any of their steps."""

import json
import shutil

import pytest

pytest.importorskip("torch")

import torch
from command_line import lorans
from safetensors.torch import load_file
from services_recipes import RECIPE, run_recipe

from lora_ns.answers.checkpoints import at_checkpoint
from lora_ns.answers.opened import open_run, open_trained
from lora_ns.errors import UsageError
from lora_ns.exports.record import read_record
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.load import load_recipe
from lora_ns.run.best_adapter import find_best
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import EARLY, IN_TIME
from lora_ns.run.observer import SilentObserver
from lora_ns.services.export_merged import export_merged
from lora_ns.services.resume import resume

SMALL = ("dataset.max_samples=16", "dataset.max_eval_samples=4", "training.global_batch_size=4")


@pytest.fixture
def unfinished(early_run, tmp_path):
    """The run as it would be if it had been stopped after its last step."""
    shutil.copytree(early_run.path, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    shutil.rmtree(run.adapter)
    run.probes.unlink()
    run.update(status="interrupted", adapter={}, seal=None, adapter_step=None, ended=None, best=None)
    return run


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_an_early_end_is_a_finished_run_that_says_why(early_run):
    manifest = early_run.read()
    assert manifest.status == "finished"
    assert manifest.ended.startswith(f"{EARLY}`eval_loss` has not improved beyond its noise in 1 evaluation since ")
    assert (early_run.checkpoints / "checkpoint-4" / "early_stopping.json").is_file()


def test_the_run_ends_with_the_best_adapter_which_no_checkpoint_has(early_run):
    manifest = early_run.read()
    assert (manifest.best.step, manifest.adapter_step, manifest.best.metric) == (2, 2, "loss")
    assert manifest.metrics["eval_loss"] == manifest.best.value
    assert sorted(folder.name for folder in early_run.checkpoints.glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-4",
    ]
    assert (early_run.best / WEIGHTS).read_bytes() == (early_run.adapter / WEIGHTS).read_bytes()
    assert find_best(early_run, manifest.run_id).record == manifest.best
    assert not early_run.best_of_checkpoint.exists()


@pytest.mark.parametrize("choice", ["3", "checkpoint-4", "last", "best", "2"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_step_is_used_with_its_own_weights(early_run, unfinished, choice, is_finished):
    run, told = early_run if is_finished else unfinished, []
    with at_checkpoint(run, choice, told.append) as used:
        step = {"3": 3, "best": 2, "2": 2}.get(choice, 4)
        manifest = used.read()
        assert manifest.adapter_step == step
        assert f"{step}" in told[0]
        source = run.best if step == 2 else run.checkpoints / f"checkpoint-{step}"
        assert same(load_file(used.adapter / WEIGHTS), load_file(source / WEIGHTS))
        opened = open_run(used)
        assert opened.manifest.adapter_step == step
        folder = used.adapter
        settings = [json.loads((place / "generation_config.json").read_text()) for place in (folder, early_run.adapter)]
        assert settings[0] == settings[1]
    assert not folder.exists()
    assert RunDir(run.path).read().adapter_step == (2 if is_finished else None)


def test_a_merged_checkpoint_is_compared_with_that_checkpoint(early_run, tmp_path):
    with at_checkpoint(early_run, "3", lambda _: None) as used:
        result = export_merged(used, tmp_path / "merged")
        assert not result.proof.frozen
    assert result.proof.is_verified
    record = read_record(tmp_path / "merged")
    assert record.manifest.adapter_step == 3
    assert json.loads((tmp_path / "merged" / "export_report.json").read_text())["step"] == 3
    assert "step 3" in (tmp_path / "merged" / "README.md").read_text()


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("5", "there is no complete checkpoint of step 5"),
        ("first", "`first` is no step (write a step, `last` or `best`)"),
        ("-1", "`-1` is no step"),
    ],
)
def test_an_unknown_step_names_those_that_exist(unfinished, choice, told):
    with pytest.raises(UsageError) as caught, at_checkpoint(unfinished, choice, lambda _: None):
        pass
    assert told in str(caught.value)
    if choice == "5":
        assert "there are: 3, 4, best (step 2)" in str(caught.value)


def test_a_damaged_checkpoint_is_refused_and_the_last_is_one_that_is_intact(unfinished):
    weights = unfinished.checkpoints / "checkpoint-4" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    told = []
    with at_checkpoint(unfinished, "last", told.append) as used:
        assert used.step == 3
    assert told[0].startswith("skipped checkpoint-4: ")
    with pytest.raises(UsageError, match="is damaged"), at_checkpoint(unfinished, "4", told.append):
        pass


def test_a_run_without_a_best_adapter_says_how_to_get_one(unfinished):
    shutil.rmtree(unfinished.best)
    with pytest.raises(UsageError, match="no evaluation has been made yet"), at_checkpoint(unfinished, "best", print):
        pass


def test_an_unfinished_run_is_used_with_the_option_that_the_error_names(unfinished, capfd):
    refused = lorans("infer", unfinished.path, "--input", "hello")
    assert refused.returncode == 2
    assert "`--checkpoint last` uses its last checkpoint" in refused.stderr
    answered = lorans("infer", unfinished.path, "--input", "hello", "--checkpoint", "last")
    assert answered.returncode == 0, answered.stderr
    assert "using the adapter of checkpoint-4" in capfd.readouterr().err


def test_a_run_that_its_time_limit_ended_goes_on_to_the_adapter_of_the_uninterrupted_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "limited").mkdir()
    usual = (*SMALL, "peft.lora_dropout=0.1", "training.max_steps=3")
    whole = run_recipe(tmp_path / "whole", RECIPE, *usual, "training.full_determinism=true")
    assert not torch.are_deterministic_algorithms_enabled()
    limited = run_recipe(tmp_path / "limited", RECIPE, *usual, "training.max_time=1")
    manifest = limited.read()
    assert (manifest.status, manifest.adapter_step) == ("finished", 1)
    assert manifest.ended.startswith(f"{IN_TIME}stopped after step 1 of 3")
    assert "eval_loss" in manifest.metrics
    assert open_trained(limited).model is not None
    recipe = load_recipe(tmp_path / "limited" / "recipe.toml", [*usual, f"training.output_dir={limited.path}"])
    with Noise() as noise:
        resume(limited, SilentObserver(), noise, recipe)
    after = limited.read()
    assert (after.status, after.ended, after.adapter_step) == ("finished", None, 3)
    assert same(load_file(limited.adapter / WEIGHTS), load_file(whole.adapter / WEIGHTS))
