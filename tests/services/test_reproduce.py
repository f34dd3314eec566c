"""`lorans reproduce`: a run is trained again from its record to the same bits, and what is another here is named."""

import contextlib
import json
import shutil

import pytest

pytest.importorskip("torch")

from services_recipes import RECIPE, run_recipe
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import MissingError, UsageError
from lora_ns.machine.hardware import detect
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import read_metrics
from lora_ns.run.observer import SilentObserver
from lora_ns.services.reproduce.compare import apart
from lora_ns.services.reproduce.reproduce import check, reproduce
from lora_ns.services.resume import resume
from lora_ns.services.verify_lineage import verify_lineage


class Told(SilentObserver):
    def __init__(self):
        self.notes = []

    def warn(self, text):
        self.notes.append(text)


def again(run, output, observer=None, **more):
    with Noise() as noise:
        return reproduce(run, observer or SilentObserver(), noise, output, **more)


def names(run):
    """What is another here, apart from libraries that the session may have in other versions."""
    return {one.name: one.effect for one in check(run).differing}


@contextlib.contextmanager
def changed(file, change):
    """Change the text of a file, and put it back."""
    kept = file.read_bytes()
    try:
        file.write_bytes(change(kept))
        yield
    finally:
        file.write_bytes(kept)


def one_byte(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture
def run(local_run):
    return RunDir(local_run / "run")


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def test_a_run_with_dropout_and_packing_is_repeated_to_the_same_bits(run, tmp_path):
    observer = Told()
    result = again(run, tmp_path / "again", observer)
    assert (result.is_same, result.differing, result.apart, observer.notes) == (True, (), None, [])
    new, manifest = RunDir(tmp_path / "again"), run.read()
    assert new.read().adapter == manifest.adapter
    assert (new.read().reproduces, new.read().run_id == manifest.run_id) == (manifest.run_id, False)
    assert verify_lineage(new.path).tip == result.lineage
    assert verify_lineage(run.path).is_whole


def test_a_classifier_is_repeated_to_the_same_bits_by_the_command(classifier_run, tmp_path):
    done = CliRunner().invoke(app, ["reproduce", str(classifier_run.path), "-o", str(tmp_path / "again")])
    assert done.exit_code == 0, done.output
    assert "the same adapter, bit for bit" in done.output
    with pytest.raises(UsageError, match="already contains a run"):
        again(classifier_run, tmp_path / "again")


@pytest.mark.matrix
@pytest.mark.parametrize(
    "overrides",
    [
        ['peft.init_lora_weights="pissa"'],
        ['peft.method="vera"', "training.learning_rate=1e-2"],
        ['model.dtype="bfloat16"'],
        ["evaluation.exact_match=true", "generation.max_new_tokens=4"],
        ['tracking.report_to=["tensorboard"]'],
    ],
    ids=lambda one: one[0],
)
def test_other_runs_are_repeated_to_the_same_bits_and_report_to_no_tracker(tmp_path, overrides):
    run = run_recipe(tmp_path, RECIPE, *overrides)
    assert again(run, tmp_path / "again").is_same
    assert not RunDir(tmp_path / "again").read().recipe.tracking.report_to
    assert not RunDir(tmp_path / "again").tracking.exists()


def test_changed_rows_and_another_template_are_named_and_refused_and_forced_the_kept_ones_count(
    run, local_run, tmp_path
):
    rows, template = local_run / "train.jsonl", local_run / "base/chat_template.jinja"
    with changed(rows, one_byte), changed(template, lambda text: text + b"{# other #}"):
        assert names(run) == {
            f"data: {rows}": "changes the result",
            "base: chat_template.jinja": "changes the result",
            "chat template": "changes the result",
        }
        with pytest.raises(UsageError, match=r"data: .*train\.jsonl was sha256:.*, and is sha256:.* now"):
            again(run, tmp_path / "again")
        assert not (tmp_path / "again").exists()
        done = CliRunner().invoke(app, ["reproduce", str(run.path), "--check", "--json"])
        assert (done.exit_code, json.loads(done.stdout)["output"]) == (1, None)
        assert again(run, tmp_path / "again", is_forced=True).is_same
    new = RunDir(tmp_path / "again")
    assert (new.adapter / "chat_template.jinja").read_bytes() == (run.adapter / "chat_template.jinja").read_bytes()


def test_rows_that_are_gone_are_taken_from_the_run(run, local_run, tmp_path):
    (local_run / "train.jsonl").rename(tmp_path / "train.jsonl")
    try:
        result = check(run)
    finally:
        (tmp_path / "train.jsonl").rename(local_run / "train.jsonl")
    assert result.differing == ()
    assert result.notes == (
        f"{local_run}/train.jsonl is not there any more: the run trains on the rows that it has kept",
    )


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_byte_in_the_base_is_named(run, local_run, name):
    def change(content):
        if name.endswith(".json"):
            return content + b"\n"
        return content[:-9000] + bytes([content[-9000] ^ 1]) + content[-8999:]

    with changed(local_run / "base" / name, change):
        found = names(run)
    assert f"base: {name}" in found or "tokenizer" in found
    assert set(found.values()) == {"changes the result"}


def test_other_versions_and_machines_are_named_and_only_warned_of(copied):
    manifest = copied.read()
    packages = {**manifest.packages, "peft": "0.0.1"}
    machine = {**manifest.machine, "cpu": "another", "instruction_sets": ["avx2"], "cores": 96}
    copied.update(packages=packages, machine=machine, lineage=None)
    copied.lineage.unlink()
    result = check(copied)
    assert {one.name for one in result.differing} == {"peft", "CPU", "instruction sets", "threads"}
    peft = next(one for one in result.differing if one.name == "peft")
    assert (peft.before, peft.now, peft.remedy) == ("0.0.1", manifest.packages["peft"], "`pip install peft==0.0.1`")
    assert not result.is_refused


def test_a_damaged_or_unfinished_run_is_not_repeated(copied, tmp_path):
    rows = copied.data / "train/data-00000-of-00001.arrow"
    with (
        changed(rows, one_byte),
        pytest.raises(UsageError, match="the run is damaged: is not the file that was written"),
    ):
        again(copied, tmp_path / "again", is_forced=True)
    with pytest.raises(UsageError, match="is in the run that is repeated"):
        again(copied, copied.path / "again")
    copied.update(status="interrupted")
    with pytest.raises(UsageError, match="no adapter to compare with: the run is interrupted"):
        check(copied)


@pytest.mark.skipif(detect().accelerator == "cuda", reason="there is a GPU here")
def test_a_run_of_a_gpu_is_refused_without_one_and_told_to_vary(copied, tmp_path):
    manifest = copied.read()
    device = manifest.plan.device.model_copy(update={"value": "cuda"})
    copied.update(plan=manifest.plan.model_copy(update={"device": device}), lineage=None)
    copied.lineage.unlink()
    assert "kernels may add in another order" in " ".join(check(copied).notes)
    with pytest.raises(MissingError, match="1 process on cuda, and this machine has 0 GPUs"):
        again(copied, tmp_path / "again")


def test_how_far_two_runs_are_apart_is_measured(run, copied, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(copied.adapter / WEIGHTS)
    save_file({name: value * 1.5 for name, value in weights.items()}, copied.adapter / WEIGHTS)
    rows = [json.loads(line) for line in copied.metrics.read_text().splitlines()]
    step = next(row for row in rows if "loss" in row and row["step"] > 1)
    step["loss"] += 1
    copied.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = apart(run, copied)
    assert found.relative == pytest.approx(0.5)
    assert (found.first_step, found.losses) == (step["step"], (step["loss"] - 1, step["loss"]))


# Runs that ended before their last step, or skipped some


def test_a_run_that_early_stopping_ended_is_repeated_with_its_best_adapter(early_run, tmp_path):
    observer = Told()
    result = again(early_run, tmp_path / "again", observer)
    assert result.is_same
    assert result.end in observer.notes
    assert result.end.startswith("early stopping ended the run after step 4")
    new, before, now = RunDir(tmp_path / "again"), early_run.read(), RunDir(tmp_path / "again").read()
    assert (now.ended, now.best, now.adapter_step) == (before.ended, before.best, before.adapter_step)
    assert (new.best / WEIGHTS).read_bytes() == (early_run.best / WEIGHTS).read_bytes()
    assert verify_lineage(new.path).is_whole


def test_a_run_that_its_time_limit_ended_is_repeated_up_to_that_step(tmp_path):
    few = ("dataset.max_samples=16", "dataset.max_eval_samples=4", "training.global_batch_size=4")
    best = ("training.eval_steps=1", "training.save_steps=2", "training.load_best_model_at_end=true")
    highest = ("training.extra.greater_is_better=true", "training.max_steps=4", "peft.lora_dropout=0.1")
    run = run_recipe(tmp_path, RECIPE, *few, *best, *highest, "training.max_time=1")
    manifest = run.read()
    assert manifest.ended_in_time
    result = again(run, tmp_path / "again")
    now = RunDir(tmp_path / "again").read()
    assert (result.is_same, now.adapter_step, now.ends_at) == (True, manifest.adapter_step, 1)
    assert "the new run ends there, whatever time it takes" in result.end
    assert now.ended_in_time
    with Noise() as noise:
        resume(RunDir(tmp_path / "again"), SilentObserver(), noise)
    assert RunDir(tmp_path / "again").read().ended is None
    assert read_metrics(tmp_path / "again/metrics.jsonl").rows[-1]["step"] == 4


def test_skipped_steps_are_told_before(copied):
    assert check(copied).end is None
    copied.bad_batch.write_text('{"step": 2, "rank": 0, "rows": []}\n')
    assert "the run skipped steps without a finite gradient (bad_batch.jsonl)" in check(copied).end
