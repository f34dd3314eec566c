"""From a recipe to a model that is used: what is saved is what was trained."""

import contextlib
import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, interrupt, resumed
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import lora_ns.training.fit
from lora_ns.answers.opened import open_trained
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError, RunError, UsageError
from lora_ns.machine.libraries import Noise
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.load import computing
from lora_ns.plan.plan import Derived
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.infer import as_row, infer
from lora_ns.services.merge import merge
from lora_ns.services.resume import resume
from lora_ns.services.train import train

PROBE = "Spell plum backwards."


def logits(model, tokenizer, dtype="float32"):
    model.eval()
    with torch.no_grad(), computing("cpu", dtype):
        return model(**tokenizer(PROBE, return_tensors="pt")).logits.float()


class Asking(SilentObserver):
    """What the trained model answered just before it was saved."""

    def saving(self, model, tokenizer):
        self.answered = logits(model, tokenizer)


VARIANTS = {
    "lora": [],
    "ia3": ['peft.method="ia3"'],
    "prompt-tuning": ['peft.method="prompt-tuning"'],
    "dora": ["peft.use_dora=true"],
    "rslora": ["peft.use_rslora=true"],
    "pissa": ['peft.init_lora_weights="pissa"'],
    "packed": ["sft.packing=true"],
    "bfloat16": ['model.dtype="bfloat16"'],
    "4-bit": ['quantization.method="bnb-4bit"'],
    "8-bit": ['quantization.method="bnb-8bit"'],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_a_run_saves_what_it_trained_and_merges_it_or_says_why_not(trained, tmp_path, overrides):
    asking = Asking()
    run = trained(RECIPE, *overrides, observer=asking)
    manifest = run.read()
    assert manifest.status == "finished"
    assert manifest.base.trainable_parameters
    dtype = manifest.plan.dtype.value
    again = open_trained(run)
    reloaded = logits(again.model, again.tokenizer, dtype)
    if getattr(manifest.recipe.peft, "moves_base", False):  # what it began with is taken off again: rounding
        assert torch.allclose(reloaded, asking.answered, atol=1e-3)
    else:
        assert torch.equal(reloaded, asking.answered)
    with again.model.disable_adapter():
        plain = logits(again.model, again.tokenizer, dtype)
    assert not torch.allclose(plain, reloaded[:, -plain.shape[1] :], atol=1e-4)
    if manifest.recipe.peft.capabilities.merge is not True:
        with pytest.raises(UsageError, match="cannot be merged"):
            merge(run, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
        return
    assert merge(run, tmp_path / "merged").largest_difference < 1e-4
    settings = json.loads((tmp_path / "merged/config.json").read_text())
    assert "quantization_config" not in settings
    AutoTokenizer.from_pretrained(tmp_path / "merged")
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


def test_a_model_merged_in_float32_answers_as_the_adapter_does(trained, tmp_path):
    run = trained(RECIPE, 'model.dtype="bfloat16"')
    exact = merge(run, tmp_path / "exact", dtype="float32")
    assert exact.largest_difference == exact.rounded_difference < 1e-5
    rounded = merge(run, tmp_path / "rounded")
    assert rounded.dtype == "bfloat16"
    assert rounded.rounded_difference > exact.rounded_difference
    adapter = open_trained(run, dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "exact")
    assert merged.dtype == torch.float32
    assert torch.allclose(logits(merged, adapter.tokenizer), logits(adapter.model, adapter.tokenizer), atol=1e-4)


def test_only_the_adapter_is_trained(lora_run):
    keys = load_file(lora_run.adapter / WEIGHTS)
    assert len(keys) == 2 * 7 * 4
    assert all(".lora_A." in key or ".lora_B." in key for key in keys)
    assert all(value.abs().max() > 0 for value in keys.values())


def test_two_runs_of_a_recipe_give_the_same_adapter(lora_run, trained):
    assert trained(RECIPE).read().adapter[WEIGHTS] == lora_run.read().adapter[WEIGHTS]


def test_every_file_has_the_permissions_that_the_umask_leaves(lora_run, tmp_path):
    merge(lora_run, tmp_path / "merged")
    (tmp_path / "plain").touch()
    expected = (tmp_path / "plain").stat().st_mode
    files = [file for folder in (lora_run.path, tmp_path / "merged") for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} > {"adapter_model.safetensors", "model.safetensors", "optimizer.pt"}
    assert {str(file) for file in files if file.stat().st_mode != expected} == set()


def test_the_metrics_begin_before_the_first_step_and_the_loss_falls(lora_run):
    rows = [json.loads(line) for line in lora_run.metrics.read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert rows[0]["step"] == 0
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("size", "evaluated"), [(1, 1), (2, 3), (8, 8)])
def test_neither_the_adapter_nor_a_loss_depends_on_how_batches_are_cut(lora_run, trained, size, evaluated):
    sizes = (f"training.per_device_train_batch_size={size}", f"training.per_device_eval_batch_size={evaluated}")
    run = trained(RECIPE, *sizes)
    expected, got = load_file(lora_run.adapter / WEIGHTS), load_file(run.adapter / WEIGHTS)
    assert all(torch.allclose(got[key], expected[key], atol=2e-3) for key in expected)
    measured, before = run.read().metrics, lora_run.read().metrics
    for name in ("before/eval_loss", "eval_loss"):
        assert measured[name] == pytest.approx(before[name], abs=1e-4)


def test_the_padding_token_is_no_stop_token_in_what_is_saved(lora_run):
    settings = json.loads((lora_run.adapter / "generation_config.json").read_text())
    assert settings["pad_token_id"] not in settings["eos_token_id"]


def test_a_run_works_after_it_was_moved_and_its_recipe_is_gone(lora_run, tmp_path):
    moved = RunDir(tmp_path / "elsewhere")
    shutil.copytree(lora_run.path, moved.path)
    moved.recipe.unlink()
    model = open_trained(moved)
    first = infer(model, [as_row(model, PROBE)], model.manifest.recipe.generation).rows[0]
    assert first["output"]
    assert first["finish_reason"] in {"stop", "length"}
    assert merge(moved, tmp_path / "merged").parameters > 1_000_000


def test_answers_do_not_depend_on_the_batch(lora_run):
    model = open_trained(lora_run)
    rows = [
        as_row(model, text)
        for text in ("What is 12 + 7?", "How many letters are in plum?", "Write cat in capitals.", PROBE)
    ]
    base = model.manifest.recipe.generation.model_copy(update={"max_new_tokens": 12})
    alone = [infer(model, [row], base).rows[0] for row in rows]
    together = infer(model, rows, base.model_copy(update={"batch_size": 4})).rows
    assert list(together) == alone


def test_a_run_without_its_adapter_is_refused(lora_run, tmp_path):
    run = RunDir(tmp_path / "copy")
    shutil.copytree(lora_run.path, run.path)
    (run.adapter / WEIGHTS).unlink()
    with pytest.raises(UsageError, match="no adapter: the run is finished"):
        open_trained(run)


def test_resuming_gives_the_run_that_was_never_interrupted(lora_run, trained, tmp_path):
    run = trained(RECIPE, "training.save_steps=3", "training.save_total_limit=5")
    expected = load_file(run.adapter / WEIGHTS)
    shutil.rmtree(run.adapter)
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    run.update(status="interrupted")
    (tmp_path / "recipe.toml").unlink()
    moved = RunDir(tmp_path / "moved")
    run.path.rename(moved.path)
    with Noise() as noise:
        assert resume(moved, SilentObserver(), noise).steps == 6
    got = load_file(moved.adapter / WEIGHTS)
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    steps = [json.loads(line)["step"] for line in moved.metrics.read_text().splitlines()]
    assert steps == sorted(steps)


SHORT = ("training.max_steps=2", "training.save_steps=1", "dataset.max_samples=8", "dataset.max_eval_samples=2")


class Listening(SilentObserver):
    """What is heard of the model from the base to what is saved, and whether something is saved by then."""

    def __init__(self, folder):
        self._folder, self.heard = folder, []

    def _hear(self, event):
        self.heard.append((event, (self._folder / "run/adapter").exists()))

    def adapted(self, model):
        self._hear("adapted")
        self.model = model

    def ready(self, trainer):
        self._hear("ready")
        assert trainer.model is self.model
        assert trainer.state.global_step == 0

    def begin(self, step, steps):
        self._hear("begin")

    def step(self, step, tokens):
        self._hear(f"step {step}")

    def saving(self, model, tokenizer):
        self._hear("saving")
        assert model is self.model
        assert tokenizer.chat_template
        self.trained = {name: value.clone() for name, value in model.state_dict().items() if "lora_" in name}


def test_an_observer_has_the_model_before_its_first_step_and_as_it_is_saved(trained, tmp_path):
    observer = Listening(tmp_path)
    run = trained(RECIPE, *SHORT, observer=observer)
    events = ("adapted", "ready", "begin", "step 1", "step 2", "saving")
    assert observer.heard == [(event, False) for event in events]
    saved = load_file(run.adapter / WEIGHTS)
    assert saved
    trained_ones = {name.replace(".default", ""): value for name, value in observer.trained.items()}
    assert saved.keys() == trained_ones.keys()
    assert all(torch.equal(saved[name], value) for name, value in trained_ones.items())


@pytest.fixture
def read_by(monkeypatch):
    """How often the manifests of runs are read while something is done."""
    read, reads = RunDir.read, []

    def counted(run):
        reads.append(run)
        return read(run)

    def count(work):
        reads.clear()
        work()
        return len(reads)

    monkeypatch.setattr(RunDir, "read", counted)
    return count


@pytest.mark.parametrize("text", [RECIPE, CLASSES], ids=["text", "classes"])
def test_a_run_reads_its_manifest_at_its_beginning_and_when_what_was_saved_is_opened(trained, tmp_path, read_by, text):
    opened_by_the_test = 1
    assert read_by(lambda: trained(text, *SHORT)) - opened_by_the_test <= 2
    run = RunDir(tmp_path / "run")
    interrupt(run, 2)
    # As well to know what to say of a signal, and once nobody else holds it.
    assert read_by(lambda: resumed(run)) <= 4
    assert run.read().status == "finished"


def test_a_checkpoint_that_lost_a_part_is_passed_over(trained, tmp_path):
    run = trained(RECIPE, "training.save_steps=2", "training.save_total_limit=5")
    (run.checkpoints / "checkpoint-6" / "optimizer.pt").write_bytes(b"")
    from lora_ns.run.last_checkpoint import last_complete_checkpoint

    assert last_complete_checkpoint(run.checkpoints, run.read().run_id)[1] == 4
    assert last_complete_checkpoint(run.checkpoints, "another run") is None


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 240 MB, in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_in_training_is_told_and_the_run_goes_on_once_there_is_space(trained, small_disk):
    class Filler(SilentObserver):
        def step(self, step, tokens):
            if step == 6:
                with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
                    while file.write(bytes(1 << 20)):
                        pass

    overrides = (f"training.output_dir={small_disk / 'run'}", "training.max_steps=8", "training.save_steps=4")
    with pytest.raises(RunError, match=r"no space left on the disk; .* --resume"):
        trained(RECIPE, *overrides, observer=Filler())
    run = RunDir.open(small_disk / "run")
    (small_disk / "ballast").unlink()
    with Noise() as noise:
        assert resume(run, SilentObserver(), noise).steps == 8
    assert run.read().status == "finished"


def test_a_resumed_run_cannot_become_another_one(lora_run, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("5e-3", "1e-3"))
    with pytest.raises(UsageError, match=r"training.learning_rate: the run was started with 0.005"), Noise() as noise:
        resume(lora_run, SilentObserver(), noise, load_recipe(tmp_path / "recipe.toml"))


_ONE_FOR_ALL = {"rank": Derived[int | None](value=None, origin="default")}
"""What the plan of a run of a version has in which LoRA's rank did not depend on the task."""


@pytest.mark.parametrize(
    ("planned", "begun", "overrides", "told"),
    [
        ({}, {}, [], "this run is finished"),
        (_ONE_FOR_ALL, {"lora_r": 16, "lora_alpha": 32.0}, [], "this run is finished"),
        (_ONE_FOR_ALL, {"lora_r": 16, "lora_alpha": 32.0}, ["peft.lora_r=16"], "this run is finished"),
        (_ONE_FOR_ALL, {"lora_r": 32, "lora_alpha": 32.0}, [], "peft.lora_r: the run was started with 32"),
        (
            {"rank": Derived[int | None](value=16, origin="--set")},
            {"lora_r": 16, "lora_alpha": 32.0},
            [],
            "peft.lora_r: the run was started with 16",
        ),
        ({}, {}, ["peft.lora_r=16"], "peft.lora_r: the run was started with 8"),
    ],
)
def test_a_rank_that_nobody_wrote_is_the_one_that_the_run_began_with(
    classifier_run, tmp_path, planned, begun, overrides, told
):
    run = RunDir(shutil.copytree(classifier_run.path, tmp_path / "run"))
    recipe, plan = run.read().recipe, run.read().plan
    assert (recipe.peft.lora_r, recipe.peft.lora_alpha, plan.rank.value) == (8, 16, 8)
    peft = recipe.peft.model_copy(update=begun)
    run.update(recipe=recipe.model_copy(update={"peft": peft}), plan=plan.model_copy(update=planned))
    (tmp_path / "recipe.toml").write_text(CLASSES)
    with pytest.raises(UsageError, match=told), Noise() as noise:
        resume(run, SilentObserver(), noise, load_recipe(tmp_path / "recipe.toml", overrides))


@pytest.mark.parametrize(
    ("override", "overwrite", "told"),
    [
        ("training.seed=1", False, "already contains a run"),
        ("training.optim='galore_adamw'", True, "training.optim: "),
        ("peft.target_modules=['no_proj']", True, "target_modules"),
    ],
)
def test_a_run_that_is_there_is_kept_by_what_cannot_replace_it(lora_run, tmp_path, override, overwrite, told):
    shutil.copytree(lora_run, tmp_path / "run")
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('"run"', f'"{tmp_path / "run"}"'))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with pytest.raises(LoransError, match=told), Noise() as noise:
        train(load_recipe(tmp_path / "recipe.toml", [override]), SilentObserver(), noise, overwrite)
    assert before == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ('peft.target_modules=["q_proj","v_projj"]', "did you mean `v_proj`"),
        ('dataset.path="nothing.jsonl"', "no file `nothing.jsonl`"),
        ("sft.max_seq_length=16", "rows longer than 16 tokens"),
        ('model.name_or_path="no/such-model"', "HF_HUB_OFFLINE"),
        ('model.name_or_path="./nowhere"', "no folder"),
        ('tracking.report_to=["mlflow"]', "is not installed"),
        ("training.optim='galore_adamw'", "training.optim: "),
        ("training.extra={save_steps=4}", "`save_steps` is set by"),
        ("training.extra={load_best_model_at_end=true}", "write `training.load_best_model_at_end`"),
        ("training.extra={optim_args='lr'}", "training.optim: "),
        ("training.extra={dataloader_persistent_workers=true}", "training.extra: persistent_workers option needs"),
        ("training.extra={dataloader_drop_last=true, eval_delay='soon'}", "training.extra.eval_delay: 'soon'"),
        ("training.extra={lr_scheduler_kwargs={cycles=2}}", "training.lr_scheduler_type: "),
        ("training.metric_for_best_model=bleu", "it is not known whether a higher `bleu` is better"),
        ("training.metric_for_best_model=accuracy", "the evaluation has no `accuracy` (known: loss"),
    ],
)
def test_what_cannot_train_says_so_and_trains_nothing(trained, tmp_path, override, told):
    with pytest.raises(LoransError) as caught:
        trained(RECIPE, override)
    assert told in str(caught.value)
    assert not (tmp_path / "run" / "adapter").exists()


class Warned(SilentObserver):
    """Keeps what is warned of."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.extra.eval_delay=100", "no evaluation measured the model in 2 steps"),
        ("training.eval_steps=1", ""),
    ],
)
def test_a_loss_is_told_as_changed_only_if_it_was_measured_twice(trained, override, told):
    observer = Warned()
    run = trained(RECIPE, "training.max_steps=2", "dataset.max_samples=16", override, observer=observer)
    metrics, measured = run.read().metrics, " ".join(observer.warnings)
    assert told in measured
    assert bool(told) == ("measured" in measured)
    assert "before/eval_loss" in metrics
    assert ("eval_loss" in metrics) == (not told)


def test_a_run_that_made_no_step_is_none():
    state = SimpleNamespace(global_step=0, max_steps=4)
    with pytest.raises(RunError, match="no step of 4 was made: there are too few rows for a batch"):
        lora_ns.training.fit._check_stepped(SimpleNamespace(state=state), SilentObserver(), None)
    observer = Warned()
    state.global_step = 3
    lora_ns.training.fit._check_stepped(SimpleNamespace(state=state), observer, None)
    assert observer.warnings == ["the rows ended after step 3 of 4"]


def test_a_classifier_learns_saves_its_labels_and_merges(classifier_run, tmp_path):
    model = open_trained(classifier_run)
    assert model.manifest.labels == ("loud", "quiet")
    assert model.manifest.metrics["eval_accuracy"] == 1.0
    rows = [Row("a", {"text": "WALNUT"}), Row("b", {"text": "a long walnut"})]
    answers = infer(model, rows, model.manifest.recipe.generation).rows
    assert [row["output"] for row in answers] == ["loud", "quiet"]
    assert all(sum(row["scores"].values()) == pytest.approx(1) for row in answers)
    merge(classifier_run, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "loud", 1: "quiet"}


def test_a_classifier_over_a_4_bit_base_trains(trained):
    run = trained(CLASSES, 'quantization.method="bnb-4bit"', "training.max_steps=2")
    assert run.read().status == "finished"
