"""Starts of LoRA that are computed: they begin as the base does, learn faster, and what is saved fits any base."""

import functools
import json
import shutil

import pytest

pytest.importorskip("torch")

import peft
import torch
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, check_resumes_to_the_same_bits, run_recipe

from lora_ns.errors import LoransError, ModelError, PlanError, RunError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import find_base
from lora_ns.model.load import Loading, load_base
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.merge import merge
from lora_ns.training.starts import put_back

BY_ROWS = ("corda", "eva", "lora_ga")
MOVING = ("corda", "lora_ga", "olora", "pissa", "pissa_niter_16")
QUICK = ("training.max_steps=10", "training.learning_rate=1e-3", "training.warmup_steps=0", "training.logging_steps=1")


def started(start, *more):
    samples = ("peft.init_samples=12",) if start in BY_ROWS else ()
    return (f"peft.init_lora_weights={start}", *samples, *more)


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(torch.arange(5, 45)[None]).logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs that differ in their start alone, each with what its model answered at its end."""

    @functools.cache
    def run(start):
        answers = {}

        class Spy(SilentObserver):
            def saving(self, model, tokenizer):
                answers["trained"] = logits(model)

        found = run_recipe(tmp_path_factory.mktemp(start), RECIPE, *QUICK, *started(start), observer=Spy())
        return found, answers["trained"]

    return run


def logged(run, key):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[key] for row in rows if key in row]


@pytest.mark.parametrize("start", BY_ROWS)
def test_a_start_from_the_rows_lowers_the_first_losses(trained, start):
    plain, found = (logged(trained(name)[0], "loss") for name in ("default", start))
    assert sum(found) / len(found) < sum(plain) / len(plain) - 0.3


@pytest.mark.parametrize("start", [*MOVING, "eva"])
def test_a_model_begins_as_its_base_with_every_start(trained, start):
    plain, found = (logged(trained(name)[0], "eval_loss") for name in ("default", start))
    assert found[0] == pytest.approx(plain[0], abs=1e-4)


@pytest.mark.parametrize("start", [*MOVING, "eva"])
def test_a_saved_start_is_a_plain_lora_of_the_untouched_base(trained, tmp_path, start):
    run, answered = trained(start)
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["r"]) == (True, 32 if start in MOVING else 16)
    assert config["lora_alpha"] == 2 * config["r"]
    base = load_base(find_base("lorans:nano", "main", [], download=False), Loading("CAUSAL_LM", "float32", "cpu"))
    torch.testing.assert_close(
        logits(peft.PeftModel.from_pretrained(base, run.adapter)), answered, atol=1e-3, rtol=1e-4
    )
    assert run.read().seal.largest_difference < 1e-5
    assert merge(run, tmp_path / "merged").largest_difference < 1e-4


def test_eva_moves_ranks_to_other_layers_unless_told_not_to(trained, tmp_path):
    pattern = json.loads((trained("eva")[0].adapter / "adapter_config.json").read_text())["rank_pattern"]
    assert max(pattern.values()) > 16
    even = run_recipe(tmp_path, RECIPE, *QUICK, *started("eva", "peft.eva_rho=1.0", "training.max_steps=1"))
    assert json.loads((even.adapter / "adapter_config.json").read_text())["rank_pattern"] == {}


@pytest.mark.parametrize("start", [*BY_ROWS, "pissa"])
def test_a_classifier_and_its_head_reload_with_a_start(tmp_path, start):
    run = run_recipe(tmp_path, CLASSES, *started(start, "training.max_steps=2"))
    assert run.read().seal.largest_difference < 1e-5
    assert [name for name in load_file(run.adapter / WEIGHTS) if "score" in name]


def test_ranks_scale_and_magnitudes_survive_what_is_taken_off(tmp_path):
    forms = ("peft.use_rslora=true", "peft.use_dora=true", "peft.rank_pattern={down_proj=4}")
    more = ("peft.alpha_pattern={up_proj=8}", "peft.loraplus_lr_ratio=4", "training.max_steps=2")
    run = run_recipe(tmp_path, RECIPE, *started("pissa", *forms, *more))
    assert run.read().seal.largest_difference < 1e-5


@pytest.mark.parametrize("start", ["eva", "lora_ga"])
def test_a_resumed_run_goes_on_from_the_start_that_it_had(tmp_path, start):
    run = run_recipe(tmp_path, RECIPE, *started(start, "training.max_steps=4", "training.save_steps=2"))
    check_resumes_to_the_same_bits(run, 4)


def test_a_start_that_left_the_adapter_plain_is_no_start(monkeypatch, tmp_path):
    monkeypatch.setattr("peft.tuners.lora.loraga.preprocess_loraga", lambda *_: None)
    with pytest.raises(
        RunError, match=r'"lora_ga": the initial weights of `model.*` are those of the default initialisation'
    ):
        run_recipe(tmp_path, RECIPE, *started("lora_ga"))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (started("lora_ga", "peft.lora_r=64"), "set `lora_r` to at most 48"),
        (started("eva", "peft.lora_r=128"), "set `lora_r` to at most 96"),
        (("peft.init_lora_weights=eva", "peft.init_samples=1"), "raise `init_samples`"),
    ],
)
def test_a_start_without_enough_to_start_from_says_what_to_write(tmp_path, overrides, told):
    with pytest.raises(PlanError, match=told):
        run_recipe(tmp_path, RECIPE, *overrides)


@pytest.mark.slow
def test_a_start_that_cannot_be_computed_for_several_processes_is_told_before_they_begin(monkeypatch, tmp_path):
    monkeypatch.setattr("lora_ns.machine.hardware.usable_cores", lambda: 2)
    two = ("distributed.strategy=ddp", "distributed.num_processes=2")
    with pytest.raises(LoransError, match=r"a child process: .* \(set `lora_r` to at most 48") as caught:
        run_recipe(tmp_path, RECIPE, *started("lora_ga", "peft.lora_r=64"), *two)
    assert caught.value.exit_code == PlanError.exit_code
    run = RunDir.open(tmp_path / "run")
    assert run.read().status == "failed"
    assert not run.ranks.exists()


@pytest.mark.parametrize("start", ["loftq", "lora-ga"])
def test_a_start_that_cannot_be_is_told_with_the_nearest(tmp_path, start):
    with pytest.raises(LoransError, match="use `eva`" if start == "loftq" else '"lora_ga"'):
        run_recipe(tmp_path, RECIPE, f"peft.init_lora_weights={start}")


def test_a_start_that_does_not_fit_is_told_as_one(monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("peft.tuners.lora.loraga.preprocess_loraga", full)
    with pytest.raises(RunError) as caught:
        run_recipe(tmp_path, RECIPE, *started("lora_ga"))
    assert str(caught.value) == (
        'out of memory while computing `init_lora_weights = "lora_ga"`, before the first step (halve '
        '`per_device_train_batch_size`, name fewer `target_modules`, or write "default")'
    )


@pytest.mark.parametrize(("step", "told"), [(0, "there is no checkpoint yet"), (2, "step 2 is saved")])
def test_a_step_that_does_not_fit_names_the_checkpoint_that_there_is(tmp_path, step, told):
    import transformers

    class Full(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == step:
                raise torch.OutOfMemoryError("CUDA out of memory")

    class Filling(SilentObserver):
        def ready(self, trainer):
            trainer.add_callback(Full())

    few = ("dataset.max_samples=16", "training.max_steps=3", "training.save_steps=1")
    what = rf"out of memory with 8 rows of up to 128 tokens per batch; {told}; the plan expected .* \(halve"
    with pytest.raises(RunError, match=what):
        run_recipe(tmp_path, RECIPE, *few, observer=Filling())


def test_a_start_that_cannot_be_read_is_named(trained, tmp_path):
    run, _ = trained("pissa")
    shutil.copytree(run.start, tmp_path / "start")
    with (tmp_path / "start" / WEIGHTS).open("ab") as file:
        file.write(bytes(8))
    base = load_base(find_base("lorans:nano", None, [], download=False), Loading("CAUSAL_LM", "float32", "cpu"))
    with pytest.raises(ModelError, match=r"start: the adapter's initialisation cannot be read: .*not fully covered"):
        put_back(base, run.read().recipe.peft.start, tmp_path / "start")
