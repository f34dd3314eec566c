"""Distillation: the trainer is TRL's, the teacher is checked before the run and again when it is resumed."""

import copy
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from same_as_trl import check_same, each_length
from services_recipes import RECIPE, check_resumes_to_the_same_bits, interrupt, resumed, run_recipe

from lora_ns.answers.opened import open_run
from lora_ns.data.rows import Row
from lora_ns.errors import LoransError, PlanError, UsageError
from lora_ns.model.files import packaged
from lora_ns.recipe.load import load_recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.check_recipe import check_recipe
from lora_ns.services.evaluate import evaluate

ROWS = [{"prompt": f"Spell {word} backwards."} for word in ("plum", "stone", "river", "cloud", "maple", "otter") * 4]
DISTILLATION = (
    RECIPE.replace("lorans:quickstart/train.jsonl", "prompts.jsonl")
    .replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "")
    .replace('format = "messages"\n', "")
    .replace("max_samples = 64\nmax_eval_samples = 8\n", "")
    .replace("[sft]", '[distillation]\nteacher = "teacher"\nmax_completion_length = 6')
    .replace("learning_rate = 5e-3", "learning_rate = 1e-3\nwarmup_steps = 0\nlogging_steps = 1")
)
FEW = ("training.max_steps=4", "training.global_batch_size=4", "training.save_steps=2")


class Keeper(SilentObserver):
    """Keeps the trainer of a run, and its adapter before the first step and after the last."""

    def adapted(self, model):
        self.config = copy.deepcopy(model.peft_config["default"])
        self.start = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def ready(self, trainer):
        self.trainer = trainer

    def saving(self, model, tokenizer):
        self.end = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of `[sft]` that can teach."""
    return run_recipe(tmp_path_factory.mktemp("teacher"), RECIPE, "training.max_steps=3").path


@pytest.fixture
def folder(tmp_path, trained):
    """A folder with prompts, and with a run as `teacher`."""
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shutil.copytree(trained, tmp_path / "teacher")
    return tmp_path


def run_distillation(folder: Path, *overrides: str, observer=None):
    return run_recipe(folder, DISTILLATION, *FEW, *overrides, observer=observer)


def logged(run, key):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return [row[key] for row in rows if key in row and "loss" in row]


def trls_own(folder, keeper, run, arguments):
    """Train the same prompts from the same adapter with TRL's own trainer, called as its users do; log and adapter."""
    import trl
    from datasets import Dataset
    from peft import PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    def base():
        return AutoModelForCausalLM.from_pretrained(run.read().base.path, dtype=torch.float32)

    args = keeper.trainer.args
    model = get_peft_model(base(), keeper.config)
    model.load_state_dict(keeper.start, strict=False)
    same = ("max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "warmup_steps")
    same += ("lr_scheduler_type", "seed", "data_seed", "max_grad_norm", "optim", "weight_decay", "adam_beta2")
    fixed = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "bf16": False}
    own = trl.DistillationTrainer(
        model=model,
        teacher_model=PeftModel.from_pretrained(base(), folder / "teacher" / "adapter"),
        args=trl.DistillationConfig(
            output_dir=str(folder / "trl"),
            gradient_checkpointing=False,
            disable_tqdm=True,
            max_completion_length=6,
            **fixed,
            **{name: getattr(args, name) for name in same},
            **arguments,
        ),
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]),
        processing_class=keeper.trainer.processing_class,
    )
    set_seed(args.seed)
    own.train()
    return own.state.log_history, dict(model.named_parameters())


SETTINGS = {
    "reverse": ([], {}),
    "forward": (["distillation.beta=0", "distillation.temperature=0.7"], {"beta": 0.0, "temperature": 0.7}),
    "jsd": (
        ["distillation.beta=0.5", "distillation.top_k=20", "training.per_device_train_batch_size=2"],
        {"beta": 0.5, "top_k": 20},
    ),
}


@each_length(4)
@pytest.mark.parametrize(
    ("overrides", "arguments"),
    [pytest.param(*SETTINGS[name], id=name, marks=() if name == "jsd" else pytest.mark.matrix) for name in SETTINGS],
)
def test_losses_and_adapter_are_those_of_trls_own_trainer(folder, overrides, arguments, steps):
    keeper = Keeper()
    run = run_distillation(folder, f"training.max_steps={steps}", *overrides, observer=keeper)
    log, adapter = trls_own(folder, keeper, run, arguments)
    keys = ("loss", "grad_norm", "entropy", "completions/mean_length")
    check_same(run, log, keys, (keeper.start, keeper.end, adapter))
    assert len(logged(run, "loss")) == steps


def test_an_interrupted_run_is_resumed_to_the_same_bits(folder):
    run = run_distillation(folder, "dataset.eval_path=prompts.jsonl", "training.eval_steps=2")
    check_resumes_to_the_same_bits(run, 4)


def test_the_evaluation_loss_is_the_divergence_per_token_whatever_the_batches(folder):
    found = {}
    for size in (5, 24):
        greedy = ("distillation.top_k=1", "training.max_steps=1", "dataset.eval_path=prompts.jsonl")
        sizes = (f"training.per_device_eval_batch_size={size}", f"training.output_dir=run-{size}")
        metrics = run_distillation(folder, *greedy, *sizes).read().metrics
        names = ("before/eval_loss", "eval_loss", "eval_completions/mean_length", "eval_completions/clipped_ratio")
        found[size] = {name: metrics[name] for name in names}
    assert found[5] == pytest.approx(found[24], rel=1e-4)
    assert found[5]["before/eval_loss"] > 0


def test_the_run_records_its_teacher_and_the_plan_its_memory(folder, trained):
    keeper = Keeper()
    run = run_distillation(folder, "training.max_steps=1", observer=keeper)
    manifest = run.read()
    assert manifest.teacher.run == str(folder / "teacher")
    assert manifest.teacher.adapter.keys() >= {"adapter_model.safetensors", "adapter_config.json"}
    size = manifest.base.parameters / 1e6
    assert f"teacher: teacher, {size:.1f} million parameters, 0.01 GB of the memory" in manifest.plan.notes
    assert not any(value.requires_grad for value in keeper.trainer.teacher_model.parameters())


def test_a_model_teaches_without_a_run(folder):
    run = run_distillation(folder, "distillation.teacher=lorans:nano", "training.max_steps=2", "distillation.top_k=1")
    assert run.read().teacher.run is None
    assert logged(run, "loss")[0] == pytest.approx(0, abs=1e-6)  # a fresh adapter is the base, which is the teacher


def test_a_regularisation_counts_once_for_a_step_whatever_the_micro_batches(folder):
    found = []
    for size in (2, 4):
        sizes = (f"training.per_device_train_batch_size={size}", f"training.output_dir=run-{size}")
        few = ("peft.method=adalora", "training.max_steps=3", "distillation.top_k=1")
        found.append(logged(run_distillation(folder, *few, *sizes), "loss")[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_eval_compares_generated_answers_and_says_so(folder):
    run = open_run(run_distillation(folder, "training.max_steps=1"))
    rows = [Row(f"row {number}", {**row, "answer": "plum"}) for number, row in enumerate(ROWS[:4])]
    assert evaluate(run, rows, exact_match=True).metrics.keys() >= {"exact_match"}
    with pytest.raises(UsageError, match="is measured by the answers that it generates"):
        evaluate(run, rows, exact_match=False)


def test_a_teacher_may_be_wider(folder):
    wider(folder)
    run = run_distillation(folder, "distillation.teacher=model", "training.max_steps=2")
    assert all(loss > 0.1 for loss in logged(run, "loss"))


def wider(folder):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=320, **sizes)).save_pretrained(copied_base(folder))


# Teachers that cannot teach


def other_tokens(folder):
    model = copied_base(folder)
    file = model / "tokenizer.json"
    table = json.loads(file.read_text())
    words = table["model"]["vocab"]
    first, second = sorted(words, key=words.get)[60:62]
    words[first], words[second] = words[second], words[first]
    file.write_text(json.dumps(table))


def other_size(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(copied_base(folder))
    model.resize_token_embeddings(400)
    model.save_pretrained(folder / "model")


def copied_base(folder):
    return Path(shutil.copytree(packaged("lorans:nano"), folder / "model"))


def unfinished(folder):
    RunDir(folder / "teacher").update(status="interrupted")


def classifier(folder):
    run = RunDir(folder / "teacher")
    run.update(recipe=run.read().recipe.model_copy(update={"task_type": "SEQ_CLS"}))


FAULTS = {
    "missing folder": ("./nowhere", lambda _: None, "no folder `./nowhere`", False),
    "not in the cache": ("someone/teacher", lambda _: None, "`someone/teacher` is not in the hub's cache", False),
    "other size": ("model", other_size, "model has a vocabulary of 400, but lorans:nano has 320", False),
    "other tokens": ("model", other_tokens, "token 60 is ", True),
    "unfinished run": ("teacher", unfinished, "teacher cannot teach: the run is interrupted", False),
    "classifier": ("teacher", classifier, 'cannot teach: it has `task_type = "SEQ_CLS"`', False),
}


@pytest.mark.parametrize(("name", "make", "told", "needs_tokenizer"), FAULTS.values(), ids=FAULTS)
def test_a_teacher_that_cannot_teach_is_refused_before_the_run(folder, name, make, told, needs_tokenizer):
    make(folder)
    (folder / "recipe.toml").write_text(DISTILLATION)
    with pytest.raises(LoransError) as raised:
        run_distillation(folder, f"distillation.teacher={name}")
    assert told in str(raised.value)
    assert "recipe.toml" in str(raised.value) or "--set: distillation.teacher" in str(raised.value)
    assert not (folder / "run").exists()
    if not needs_tokenizer:
        with pytest.raises(UsageError, match=r"distillation\.teacher"):
            check_recipe(
                folder / "recipe.toml", [f"distillation.teacher={name}", "dataset.path=lorans:quickstart/train.jsonl"]
            )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "prompt-tuning"}, "TRL ignores the virtual tokens of prompt-tuning"),
        ({"method": "lora", "target_modules": ["q_proj", "lm_head"]}, "TRL ignores its adapter on `lm_head`"),
    ],
)
def test_a_run_whose_adapter_trl_would_ignore_is_no_teacher(folder, changes, told):
    from pydantic import TypeAdapter

    from lora_ns.answers.teacher import find_teacher
    from lora_ns.methods import Peft

    run = RunDir(folder / "teacher")
    peft = TypeAdapter(Peft).validate_json(json.dumps(changes))
    run.update(recipe=run.read().recipe.model_copy(update={"peft": peft}))
    (folder / "recipe.toml").write_text(DISTILLATION)
    with pytest.raises(UsageError, match=told):
        find_teacher(load_recipe(folder / "recipe.toml").recipe.objective, [folder], download=False)


def another_adapter(folder):
    shutil.rmtree(folder / "teacher")
    retrained = run_recipe(folder, RECIPE, "training.max_steps=1", "training.output_dir=teacher", "training.seed=7")
    assert retrained.path == folder / "teacher"


def another_base(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "model" / "model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def no_folder(folder):
    shutil.rmtree(folder / "model")


CHANGES = {
    "another adapter": ("teacher", another_adapter, "not the teacher that the run was started with (teacher)"),
    "another base": ("model", another_base, "not the teacher that the run was started with (model)"),
    "no folder": ("model", no_folder, "no folder `"),
}


@pytest.mark.parametrize(("name", "change", "told"), CHANGES.values(), ids=CHANGES)
def test_a_run_is_not_resumed_with_another_teacher(folder, name, change, told):
    copied_base(folder)
    run = run_distillation(folder, f"distillation.teacher={name}")
    interrupt(run, 4)
    change(folder)
    with pytest.raises(LoransError) as raised:
        resumed(run)
    assert told in str(raised.value)
    assert run.read().status == "interrupted"


def test_too_few_prompts_for_a_step_are_reported_by_the_plan(folder):
    with pytest.raises(PlanError, match="a step needs 32 prompts, but there are 24"):
        run_distillation(folder, "training.global_batch_size=32")
