"""What KaSA and AdaLoRA add to the loss of a training step is there, whatever the micro-batch, and in no evaluation."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch")

import torch
import transformers
from safetensors.torch import load_file
from services_recipes import CLASSES, RECIPE, check_resumes_to_the_same_bits, run_recipe

from lora_ns.answers.opened import open_trained
from lora_ns.errors import PlanError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import SilentObserver
from lora_ns.services.merge import merge

FEW = ("dataset.max_samples=8", "dataset.max_eval_samples=2", "training.warmup_steps=0")
KASA = ("peft.use_kasa=true", "peft.lora_r=8")
TAGS = (
    RECIPE.replace('format = "messages"\n', "").replace("CAUSAL_LM", "TOKEN_CLS").replace("[sft]", "[classification]")
)
WORDS = [{"tokens": ["plum", "and", "stone"], "tags": ["B", "O", "B"]}, {"tokens": ["and"], "tags": ["O"]}] * 4


class Grasped(transformers.TrainerCallback):
    """The gradients of the first step, and those of the term alone at the same weights."""

    def __init__(self, method):
        self.method = method

    def on_pre_optimizer_step(self, args, state, control, *, model, **_):
        if state.global_step == 0:
            trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
            self.whole = {name: value.grad.clone() for name, value in trained.items() if value.grad is not None}
            named = {name: trained[name] for name in self.whole}
            term = self.method.regularization(model)
            found = () if term is None else torch.autograd.grad(term, named.values(), allow_unused=True)
            self.term = dict(zip(named, found, strict=term is not None))


@pytest.fixture
def grasped(tmp_path):
    class Grasping(SilentObserver):
        def __init__(self, run):
            self._run = run

        def ready(self, trainer):
            self.spy = Grasped(self._run.read().recipe.peft)
            trainer.add_callback(self.spy)

    def run(text, name, *overrides):
        more = ("training.max_grad_norm=0", "training.per_device_train_batch_size=2", f"training.output_dir={name}")
        observer = Grasping(RunDir(tmp_path / name))
        found = run_recipe(tmp_path, text, *FEW, *overrides, *more, observer=observer)
        rows = [json.loads(line) for line in found.metrics.read_text().splitlines()]
        spy = observer.spy
        spy.loss = next(row["loss"] for row in rows if "loss" in row)
        spy.first = next(row["eval_loss"] for row in rows if "eval_loss" in row)
        return spy

    return run


@pytest.mark.parametrize(
    ("text", "method", "keys", "steps"),
    [
        (RECIPE, KASA, ("kasa_beta=0.5", "kasa_gamma=0.5"), 1),
        (CLASSES, KASA, ("kasa_beta=0.5", "kasa_gamma=0.5"), 1),
        (RECIPE, ("peft.method=adalora",), ("orth_reg_weight=100.0",), 3),
    ],
    ids=["kasa-text", "kasa-classes", "adalora-text"],
)
def test_the_term_is_in_the_gradient_once_and_in_no_evaluation(grasped, text, method, keys, steps):
    weighed = [f"peft.{key}" for key in keys]
    without = [f"{key.partition('=')[0]}=0.0" for key in weighed]
    most = f"training.max_steps={steps}"
    found = grasped(text, "with", *method, *weighed, most)
    plain = grasped(text, "without", *method, *without, most)
    assert found.first == pytest.approx(plain.first, abs=1e-6)
    assert found.loss > plain.loss + 1
    for name, term in found.term.items():
        expected = plain.whole[name] + (0 if term is None else term)
        torch.testing.assert_close(found.whole[name], expected, atol=1e-4, rtol=1e-4)
    assert any(term is not None and term.abs().max() > 1e-2 for term in found.term.values())


def asked(model):
    model.eval()
    with torch.no_grad():
        return model(torch.arange(5, 45)[None]).logits


@pytest.mark.parametrize(
    ("text", "dtype"),
    [(RECIPE, "float32"), (RECIPE, "bfloat16"), (CLASSES, "float32"), (TAGS, "float32")],
    ids=["text", "text-bfloat16", "classes", "tags"],
)
def test_kasa_trains_reloads_exactly_and_merges(tmp_path, text, dtype):
    answers = {}

    class Spy(SilentObserver):
        def saving(self, model, tokenizer):
            answers["trained"] = asked(model)

    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in WORDS))
    own = text.replace("lorans:quickstart/", "") if text is TAGS else text
    forms = ("peft.rank_pattern={down_proj=4}", "peft.use_rslora=true", "training.max_steps=3")
    run = run_recipe(tmp_path, own, *FEW, *KASA, *forms, f"model.dtype={dtype}", observer=Spy())
    assert run.read().seal.largest_difference == 0
    assert [name for name in load_file(run.adapter / WEIGHTS) if "lora_diag" in name]
    if dtype == "float32":
        assert torch.equal(asked(open_trained(run).model), answers["trained"])
    assert merge(run, tmp_path / "merged").largest_difference < 1e-4


@pytest.mark.matrix
def test_kasa_answers_the_same_in_another_process_and_goes_on_where_it_stopped(tmp_path):
    steps = ("training.max_steps=4", "training.save_steps=2")
    run = run_recipe(tmp_path, RECIPE, *FEW, *KASA, *steps)
    script = (
        "import sys, torch, peft; from lora_ns.model.files import find_base; "
        "from lora_ns.model.load import Loading, load_base\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "nano = find_base('lorans:nano', 'main', [], download=False)\n"
        "base = load_base(nano, Loading('CAUSAL_LM', 'float32', 'cpu'))\n"
        "model = peft.PeftModel.from_pretrained(base, sys.argv[1]).eval()\n"
        "torch.save(model(torch.arange(5, 45)[None]).logits.detach(), sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", script, run.adapter, tmp_path / "logits.pt"], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), asked(open_trained(run).model))
    check_resumes_to_the_same_bits(run, 4)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ("peft.lora_r=96",),
            r"is too high for `model.*`, which has 96 singular directions \(write at most 95\)",
        ),
        (("peft.lora_r=8", "peft.rank_pattern={down_proj=192}"), "a rank of 192 is too high for `model.*down_proj`"),
        (
            ("task_type=SEQ_CLS", 'peft.target_modules=["embed_tokens"]'),
            "is of type Embedding, and KaSA supports only linear layers",
        ),
    ],
)
def test_kasa_needs_something_to_leave_before_a_run_is_made(tmp_path, overrides, told):
    text = CLASSES if "task_type=SEQ_CLS" in overrides else RECIPE
    with pytest.raises(PlanError, match=told) as caught:
        run_recipe(tmp_path, text, "peft.use_kasa=true", *overrides)
    assert "peft.use_kasa" in str(caught.value)
    assert not (tmp_path / "run").exists()
