"""A run goes on with other processes where that gives the adapter of the uninterrupted run, or says why not."""

import json
import shutil

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, resumed, run_recipe
from strategies import prepared
from typer.testing import CliRunner

from lora_ns.answers.opened import reopen_base
from lora_ns.cli.app import app
from lora_ns.errors import LoransError
from lora_ns.machine.hardware import detect
from lora_ns.model.adapter import WEIGHTS
from lora_ns.plan.processes import count_here
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.training.regroup import regrouped, with_count

pytestmark = pytest.mark.slow

SHARED = (
    "training.max_steps=15",
    "training.save_steps=5",
    "training.eval_steps=5",
    "training.save_total_limit=5",
    "training.per_device_train_batch_size=2",
    "training.learning_rate=1e-3",
    "dataset.max_eval_samples=7",
)
"""Eight steps are an epoch: the last checkpoint but one is within the second."""


@pytest.fixture(autouse=True)
def _enough_cores(monkeypatch):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 3)


def stop_after(run, step):
    """Leave a finished run as it was after a step."""
    for checkpoint in run.checkpoints.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    run.update(status="interrupted", distributed=None)
    shutil.rmtree(run.adapter)


def go_on(run, step, *command):
    """Leave a finished run as it was after a step, and let the command go on with it."""
    stop_after(run, step)
    done = CliRunner().invoke(app, ["train", *command], catch_exceptions=False)
    assert done.exit_code == 0


def check_same(run, expected, metrics, count):
    manifest = run.read()
    assert (manifest.status, manifest.distributed.world_size, manifest.plan.world_size.value) == (
        "finished",
        count,
        count,
    )
    assert manifest.plan.gradient_accumulation_steps.value == 4 // count
    found = load_file(run.adapter / WEIGHTS)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0)
    for name in ("before/eval_loss", "eval_loss", "eval_mean_token_accuracy"):
        assert manifest.metrics[name] == pytest.approx(metrics[name], abs=1e-5)


def prepare_by_command(folder):
    """A run that one process has begun, up to the point where the command would start two to go on with it."""
    folder.mkdir()
    run = run_recipe(folder, RECIPE, *SHARED)
    shutil.copytree(run.path, folder / "whole")
    prepared(lambda: go_on(run, 5, str(run.path), "--resume", "--num-processes", "2"))
    assert count_here(run.read().recipe.distributed, detect()) == 2  # what the command would start
    return run


def check_by_command(run, folder):
    """Hold it to the run before it was stopped, and let one process go on with a copy, by the recipe."""
    whole = RunDir(run.path.with_name("whole"))
    expected, metrics = load_file(whole.adapter / WEIGHTS), whole.read().metrics
    check_same(run, expected, metrics, 2)
    again = RunDir(shutil.copytree(run.path, folder / "run"))
    shutil.copy(run.path.with_name("recipe.toml"), folder)
    shared = [word for override in SHARED for word in ("--set", override)]
    go_on(again, 10, "recipe.toml", "--resume", "--num-processes", "1", *shared)
    check_same(again, expected, metrics, 1)


def run_stream(folder):
    rows = "".join(
        json.dumps({"prompt": f"a {number}", "completion": "b " * (1 + number % 5)}) + "\n" for number in range(27)
    )
    (folder / "rows.jsonl").write_text(rows)
    changed = ("dataset.path=rows.jsonl", "dataset.streaming=true", "dataset.shuffle_buffer_size=8")
    return run_recipe(folder, RECIPE.replace("max_samples = 64\n", ""), *SHARED, *changed)


def prepare_stream(folder):
    """A stream that one process has begun, up to the point where two would be started to go on with it."""
    folder.mkdir()
    run = run_stream(folder)
    stop_after(run, 5)
    return prepared(lambda: resumed(run, count=2))


def check_stream(run, folder):
    """Hold it to one process that trains in the folder; `test_strategies` trains the two."""
    whole = run_stream(folder)
    check_same(run, load_file(whole.adapter / WEIGHTS), whole.read().metrics, 2)


ZERO = ("distributed.strategy=deepspeed", "distributed.num_processes=2")
REFUSED = {
    "dropout": (("peft.lora_dropout=0.1",), "`lora_dropout` is 0.1, and each process draws its own random numbers"),
    "noise": (("sft.neftune_noise_alpha=5",), "`neftune_noise_alpha` is 5"),
    "zero": (ZERO, "ZeRO-2 has sharded the optimizer state"),
    "fsdp": (("distributed.strategy=fsdp", *ZERO[1:]), "FSDP has sharded the optimizer state"),
    "method": (("peft.method=pvera",), "pvera trains in one process: each process draws different noise"),
    "accumulation": (
        ("training.gradient_accumulation_steps=2",),
        "with `gradient_accumulation_steps = 2` the global batch depends on their number",
    ),
    "extra": (("training.extra.dataloader_drop_last=true",), "with `training.extra.dataloader_drop_last` the batches"),
    "batch": (("training.per_device_train_batch_size=4",), "the global batch of 8 cannot be divided among them"),
}


@pytest.fixture(scope="module")
def whole(lora_run):
    return lora_run.read()


def refusal(run, manifest, count):
    machine = detect()
    asked = with_count(manifest.recipe.distributed, count)
    with pytest.raises(LoransError) as caught:
        regrouped(run, manifest, reopen_base(manifest), machine, asked)
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_train_something_else_is_refused(write_recipe, lora_run, whole, name):
    overrides, told = REFUSED[name]
    text = RECIPE.replace("global_batch_size = 8\n", "") if name == "accumulation" else RECIPE
    recipe = load_recipe(write_recipe(text), overrides).recipe
    said = refusal(lora_run, whole.model_copy(update={"recipe": recipe}), 3 if name == "batch" else 2)
    assert said.startswith(f"{lora_run.path}: started with 1 process; ")
    assert told in said
    assert said.endswith("(resume with `--num-processes 1`, or start a new run)")


def test_a_base_that_drops_is_refused(write_recipe, lora_run, whole):
    recipe = load_recipe(write_recipe(CLASSES.replace("SEQ_CLS", "TOKEN_CLS"))).recipe
    said = refusal(lora_run, whole.model_copy(update={"recipe": recipe}), 2)
    assert "in the base, " in said
    assert "drop" in said


def test_rows_that_do_not_divide_are_refused_where_an_epoch_ends(lora_run, whole):
    plan = whole.plan

    def with_rows(rows):
        rows_now = plan.train_rows.model_copy(update={"value": rows})
        return whole.model_copy(update={"plan": plan.model_copy(update={"train_rows": rows_now})})

    assert "43 rows are not divisible by both numbers" in refusal(lora_run, with_rows(43), 2)
    asked = with_count(whole.recipe.distributed, 2)
    found = regrouped(lora_run, with_rows(49), reopen_base(whole), detect(), asked)
    assert found.plan.world_size.value == 2


def test_more_processes_than_there_is_room_for_are_refused(lora_run, whole):
    assert "4 processes, but this machine has 3 cores" in refusal(lora_run, whole, 4)


def test_a_run_takes_no_other_option(lora_run):
    for words in (["--set", "training.seed=1"], ["--nodes", "2"]):
        done = CliRunner().invoke(app, ["train", str(lora_run.path), "--resume", *words])
        assert "a run continues with its own settings, except `--num-processes`" in str(done.exception)


def test_the_run_is_left_as_it_was_when_it_is_refused(tmp_path):
    run = run_recipe(tmp_path, RECIPE, "peft.lora_dropout=0.1", "training.max_steps=2")
    run.update(status="interrupted")
    before = run.manifest_file.read_text()
    done = CliRunner().invoke(app, ["train", str(run.path), "--resume", "--num-processes", "2"])
    assert "`lora_dropout` is 0.1" in str(done.exception)
    assert run.manifest_file.read_text() == before
    assert RunDir.open(run.path).read().plan.world_size.value == 1
