"""`lorans bisect` finds the checkpoint at which a skill broke, and repairs what can be repaired."""

import json
import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.answers import work
from lora_ns.cli.app import app
from lora_ns.errors import LoransError
from lora_ns.files.disk import hash_folder
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import mark_checkpoint
from lora_ns.services.repair import reason_against

STEPS = 8
OLD = ("--metric", "exact_match/old")


def lorans(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def bisected(run, *arguments):
    done = lorans("bisect", run.path, *arguments, "--json")
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A run with a checkpoint after each step, at a rate that forgets nothing; the base has the old skill."""
    few = ["max_steps=8", "save_steps=1", "save_total_limit=8", "learning_rate=1e-4"]
    sets = [f"training.{one}" for one in few] + ["dataset.max_eval_samples=30"]
    sets += ["evaluation.before_training=false", 'peft.target_modules=["down_proj"]']
    kept = ["evaluation.exact_match=true", 'evaluation.group_by="group"', "generation.max_new_tokens=8"]
    return run_recipe(tmp_path_factory.mktemp("healthy"), RECIPE, *sets, *kept)


def spiked(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An adapter with a strong direction that the base does not have: an intruder, as the paper calls it."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name, value in weights.items():
        added = value.clone()
        line = torch.randn(value[0].shape if "lora_A" in name else value[:, 0].shape, generator=generator)
        (added if "lora_A" in name else added.T)[0] = 8 * line / line.norm()
        found[name] = added
    return found


@pytest.fixture
def broken(healthy, tmp_path):
    """A copy of the run that is broken from a step on."""

    def breaking(at: int, change=spiked) -> RunDir:
        run = RunDir.open(Path(shutil.copytree(healthy.path, tmp_path / "run", dirs_exist_ok=True)))
        run_id = run.read().run_id
        for step in range(at, STEPS + 1):
            folder = run.checkpoints / f"checkpoint-{step}"
            save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
            (folder / "lorans.json").unlink()
            mark_checkpoint(folder, run_id, step)
        save_file(change(load_file(run.adapter / WEIGHTS)), run.adapter / WEIGHTS, metadata={"format": "pt"})
        run.update(adapter=hash_folder(run.adapter))
        return run

    return breaking


@pytest.fixture
def loaded(monkeypatch):
    """The weights that are used, in order."""
    used: list[str] = []

    class Recording(work.Weights):
        def using(self, weights):
            used.append(Path(weights).name or "adapter")
            return super().using(weights)

    monkeypatch.setattr(work, "Weights", Recording)
    return used


@pytest.mark.parametrize("at", [1, STEPS])
def test_a_skill_broken_at_a_planted_step_is_found(broken, loaded, at):
    code, found = bisected(broken(at), *OLD)
    assert code == 1
    assert found["good"] == "base"
    assert (found["before"]["step"], found["after"]["step"]) == (at - 1, at)
    assert found["before"]["figure"]["value"] == 1
    assert found["after"]["verdict"] == "worse"
    assert found["drop"].startswith("worse: ")
    assert len(set(loaded) - {"base", "checkpoint-1", "adapter"}) <= math.ceil(math.log2(STEPS))


def test_a_run_that_forgot_nothing_is_not_broken(healthy, loaded):
    code, found = bisected(healthy, *OLD)
    assert (code, found["good"], found["before"], found["after"]) == (0, None, None, None)
    assert [one["against"] for one in found["adapter"]] == ["base", "checkpoint-1"]
    assert set(loaded) <= {"base", "checkpoint-1", "adapter"}


def test_checkpoints_are_not_asked_twice(broken, loaded):
    run = broken(4)
    once = bisected(run, *OLD)
    loaded.clear()
    assert bisected(run, *OLD) == once
    assert set(loaded) == {"adapter"}


def test_a_named_checkpoint_is_the_good_one(broken):
    _, found = bisected(broken(6), *OLD, "--good", "3")
    assert [one["against"] for one in found["adapter"]] == ["checkpoint-3"]
    assert (found["good"], found["after"]["step"]) == ("checkpoint-3", 6)


def test_the_break_is_said_in_words(broken):
    done = lorans("bisect", broken(5).path, *OLD)
    assert done.exit_code == 1
    assert "exact-match.exact_match/old broke after checkpoint-4 (step 4), at checkpoint-5 (step 5)" in done.stdout
    assert "checkpoint-5 against checkpoint-4: worse: 0 of 12 items won" in done.stdout
    assert "to get it back: use " in done.stdout


def test_an_intruder_is_removed_and_the_skill_is_back(broken, tmp_path):
    run, output = broken(4), tmp_path / "repaired"
    code, found = bisected(run, *OLD, "--repair", output)
    repair = found["repair"]
    assert (code, repair["is_back"], repair["output"]) == (0, True, str(output))
    assert repair["reading"]["figure"]["value"] == 1
    assert repair["reading"]["verdict"] == "better"
    assert repair["cost"]
    before, after = load_file(run.adapter / WEIGHTS), load_file(output / WEIGHTS)
    assert {name: value.shape for name, value in before.items()} == {name: one.shape for name, one in after.items()}
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in run.adapter.iterdir())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_adapter_that_is_no_better_is_not_written(broken, tmp_path):
    run = broken(STEPS, lambda weights: {name: torch.full_like(value, 40) for name, value in weights.items()})
    code, found = bisected(run, *OLD, "--repair", tmp_path / "repaired")
    repair = found["repair"]
    assert (code, repair["reading"]["verdict"], repair["is_back"], repair["output"]) == (1, "cannot tell", False, None)
    assert not (tmp_path / "repaired").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--metric", "exact_macth"), "did you mean `exact_match`?"),
        (("--metric", "exact-match.los"), "the suite `exact-match` has no figure `los`"),
        (("--metric", "exact_match/odl"), "did you mean `old`?"),
        (("--metric", "loss/old"), "the suite `held-out` has no groups"),
        (("--metric", "regex"), "the suite `regex` needs `pattern`"),
        (("--good", "checkpoint-12"), "there is no intact checkpoint `checkpoint-12` before the adapter"),
        (("--repair", "adapter"), "is a file of the run"),
    ],
)
def test_what_cannot_be_bisected_is_refused(healthy, monkeypatch, more, told):
    monkeypatch.chdir(healthy.path)
    with pytest.raises(LoransError) as caught:
        lorans("bisect", healthy.path, *more)
    assert told in str(caught.value)


def test_a_run_without_checkpoints_is_refused(healthy, tmp_path):
    run = Path(shutil.copytree(healthy.path, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(LoransError, match="no intact checkpoints to search"):
        lorans("bisect", run)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"use_dora": True}, "`use_dora`"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "has changed the weights of the base"),
        ({"trainable_token_indices": (1,)}, "`trainable_token_indices`"),
    ],
)
def test_an_adapter_of_more_than_factors_is_not_repaired(healthy, change, told):
    manifest = healthy.read()
    assert reason_against(manifest) is None
    peft = manifest.recipe.peft.model_copy(update=change)
    recipe = manifest.recipe.model_copy(update={"peft": peft})
    assert told in reason_against(manifest.model_copy(update={"recipe": recipe}))


def test_a_run_of_labels_has_nothing_to_bisect(classifier_run):
    with pytest.raises(LoransError, match="writes no text"):
        lorans("bisect", classifier_run.path)
