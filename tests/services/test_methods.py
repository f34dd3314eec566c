"""PEFT methods on the embedded base: they train, reload, merge and resume, and a name that means nothing is told."""

import json

import pytest

pytest.importorskip("torch")

import torch
from minimal_recipe import choosing
from services_recipes import CLASSES, RECIPE, check_resumes_to_the_same_bits, interrupt, resumed, run_recipe

from lora_ns.answers.opened import open_trained
from lora_ns.errors import LoransError, RecipeError, RunError, UsageError
from lora_ns.methods import METHODS, REFUSED
from lora_ns.model.load import computing
from lora_ns.recipe.load import load_recipe
from lora_ns.run.observer import SilentObserver
from lora_ns.services.merge import merge

TEXT = RECIPE.replace("max_samples = 64", "max_samples = 12").replace("max_steps = 6", "max_steps = 3")
TEXT = TEXT.replace("global_batch_size = 8", "global_batch_size = 4")
LABELS = CLASSES.replace("max_steps = 30", "max_steps = 4")
FAMILIES = ("lora", "adalora", "loha", "vera", "oft", "fourierft", "ia3", "prefix-tuning")
"""A method of each family; `test_matrix` has them all, on tiny bases."""


def logits(model, tokenizer):
    model.eval()
    with torch.no_grad(), computing("cpu", "float32"):
        return model(**tokenizer("Spell plum backwards.", return_tensors="pt")).logits.float()


class Watched(SilentObserver):
    """One training, with what was frozen in it and what it answered at its end."""

    def __init__(self, folder):
        self._folder, self.callbacks = folder, []

    def __call__(self, text, method, *overrides, name="run"):
        given = (*choosing(method), *overrides, f"training.output_dir={name}")
        self.run = run_recipe(self._folder, text, *given, observer=self)
        rows = [json.loads(line) for line in self.run.metrics.read_text().splitlines()]
        self.losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
        return self

    def adapted(self, model):
        parameters = dict(model.named_parameters())
        self.frozen = {name: value.clone() for name, value in parameters.items() if not value.requires_grad}
        self.begun = {name: value.detach().clone() for name, value in parameters.items() if value.requires_grad}

    def ready(self, trainer):
        for callback in self.callbacks:
            trainer.add_callback(callback)

    def saving(self, model, tokenizer):
        now = dict(model.named_parameters())
        self.moved = [name for name, value in self.begun.items() if not torch.equal(now[name], value)]
        assert all(torch.equal(now[name], value) for name, value in self.frozen.items())
        self.answered = logits(model, tokenizer)


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def check_reload(watched):
    """The saved adapter answers as the trained model did. AdaLoRA's cut ranks are left out of the file: rounding."""
    again = open_trained(watched.run)
    assert again.manifest.seal.rows == 4
    reloaded = logits(again.model, again.tokenizer)
    if again.manifest.recipe.peft.method == "adalora":
        assert torch.allclose(reloaded, watched.answered, atol=1e-4)
    else:
        assert torch.equal(reloaded, watched.answered)


def check_merge(watched, method, folder):
    if METHODS[method].capabilities.merge is True:
        assert merge(watched.run, folder).largest_difference < 1e-4
        return
    with pytest.raises(UsageError, match=f"{method} cannot be merged"):
        merge(watched.run, folder)
    assert not folder.exists()


@pytest.mark.parametrize("method", FAMILIES)
def test_a_method_trains_only_its_own_reloads_and_merges(watched, tmp_path, method):
    watched(TEXT, method)
    assert watched.moved
    check_reload(watched)
    check_merge(watched, method, tmp_path / "merged")


RESUMED = ("training.max_steps=8", "training.save_steps=4")


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "vera", "oft", "fourierft", "prefix-tuning", "p-tuning"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted_or_is_refused(watched, method):
    whole = watched(TEXT, method, *RESUMED)
    resumes = METHODS[method].capabilities.resume
    if resumes is True:
        check_resumes_to_the_same_bits(whole.run, 8)
        return
    interrupt(whole.run, 8)
    with pytest.raises(UsageError, match="cannot be resumed") as caught:
        resumed(whole.run)
    assert resumes in str(caught.value)


def test_tokens_of_a_tied_base_are_trained_beside_lora_alone(watched, tmp_path):
    with pytest.raises(LoransError, match=r"peft.token_indices: the base ties its embeddings to its head"):
        watched(TEXT, "trainable-tokens")
    watched(TEXT, "lora", f"peft.trainable_token_indices={list(range(60))}", name="second")
    assert [name for name in watched.moved if "trainable_tokens" in name]
    check_reload(watched)
    watched(LABELS, "lora", f"peft.trainable_token_indices={list(range(60))}", name="third")
    assert [name for name in watched.moved if "trainable_tokens" in name]
    check_reload(watched)
    check_merge(watched, "lora", tmp_path / "merged")


@pytest.mark.parametrize("method", REFUSED)
def test_what_peft_has_and_does_not_work_is_refused_with_the_reason(write_recipe, method):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(), [f"peft.method={method}"])
    assert str(caught.value) == f"--set: peft.method: {method} cannot be trained ({REFUSED[method]})"


def test_the_table_has_every_method_of_peft():
    from peft import PeftType

    names = {name.replace("-", "").replace("_", "").lower() for name in (*METHODS, *REFUSED)}
    assert {kind.value.replace("_", "").lower() for kind in PeftType} == names


@pytest.mark.parametrize("method", ["lora", "lora-plus"])
def test_lora_plus_has_two_learning_rates(watched, method):
    import transformers

    rates = []

    class Spy(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, model=None, **_):
            names = {id(value): name for name, value in model.named_parameters()}
            groups = optimizer.param_groups
            rates.append({names[id(p)].split(".")[-3]: group["lr"] for group in groups for p in group["params"]})

    watched.callbacks.append(Spy())
    ratio = 16 if method == "lora-plus" else 1
    overrides = (f"peft.loraplus_lr_ratio={ratio}",) if ratio > 1 else ()
    watched(TEXT, "lora", *overrides, "training.warmup_steps=0")
    assert rates[0] == pytest.approx({"lora_A": 5e-3, "lora_B": ratio * 5e-3})
    check_reload(watched)


def test_lora_fa_trains_the_second_factor_alone(watched, tmp_path):
    watched(TEXT, "lora", "peft.use_lora_fa=true", "training.learning_rate=1e-3", "peft.rank_pattern={down_proj=4}")
    assert watched.moved
    assert all("lora_B" in name for name in watched.moved)
    assert watched.losses[-1] < watched.losses[0]
    trained = watched.run.read().base.trainable_parameters
    assert trained == sum(value.numel() for name, value in watched.begun.items() if "lora_B" in name)
    check_reload(watched)
    check_merge(watched, "lora", tmp_path / "merged")


LORA = {
    "gaussian": 'init_lora_weights="gaussian"',
    "orthogonal": 'init_lora_weights="orthogonal"',
    "mica": 'init_lora_weights="mica"',
    "dora": "use_dora=true",
    "rank_pattern": 'rank_pattern={down_proj=4, "layers.0.self_attn.q_proj"=2}',
    "alpha_pattern": "alpha_pattern={down_proj=4}",
    "exclude_modules": 'exclude_modules=["down_proj"]',
    "layers_to_transform": "layers_to_transform=[0, 2]",
}


IN_MATRIX = ("gaussian", "orthogonal", "mica", "dora")
"""Forms of which `test_matrix` trains one in every run."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.matrix) if name in IN_MATRIX else name for name in LORA]
)
def test_every_form_of_lora_trains_reloads_and_merges(watched, tmp_path, name):
    watched(TEXT, "lora", f"peft.{LORA[name]}")
    check_reload(watched)
    check_merge(watched, "lora", tmp_path / "merged")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "rank_pattern={down_prj=4}",
            "peft.rank_pattern: `down_prj` matches no adapted layer (did you mean `down_proj`",
        ),
        ("alpha_pattern={embed_tokens=4}", "peft.alpha_pattern: `embed_tokens` matches no adapted layer"),
        ('exclude_modules=["up_prj"]', "peft.exclude_modules: `up_prj` matches no module"),
        ('target_parameters=["experts.gate"]', "peft.target_parameters: `experts.gate` matches no parameter"),
    ],
)
def test_a_name_that_matches_nothing_is_told_with_a_close_one(watched, key, told):
    with pytest.raises(LoransError) as caught:
        watched(TEXT, "lora", f"peft.{key}")
    assert told in str(caught.value)


def test_adalora_ends_with_the_ranks_that_it_was_given(watched):
    run = watched(TEXT, "adalora", "training.max_steps=20", "peft.init_r=6", "peft.target_r=2").run
    pattern = json.loads((run.adapter / "adapter_config.json").read_text())["rank_pattern"]
    assert sum(sum(ranks) for ranks in pattern.values()) == 2 * len(pattern)


def test_adalora_needs_steps_to_cut_ranks_in(watched):
    with pytest.raises(LoransError, match="of 3 steps, `tinit = 1` and `tfinal = 1` leave fewer than 2 for ranks"):
        watched(TEXT, "adalora", "peft.tinit=1", "peft.tfinal=1")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("peft.block_size=7", "peft.block_size: the layer sizes (96, 192, 512) are not divisible by 7 (write 32)"),
        ("peft.block_size=256", "peft.block_size: the layer sizes (96, 192, 512) are not divisible by 256 (write 32)"),
    ],
)
def test_a_size_that_does_not_fit_the_layers_is_told_with_one_that_does(watched, override, told):
    with pytest.raises(LoransError) as caught:
        watched(TEXT, "c3a", override)
    assert told in str(caught.value)


def test_a_saved_adapter_that_answers_otherwise_is_no_finished_run(tmp_path):
    class Damaging(SilentObserver):
        def saving(self, model, tokenizer):
            with torch.no_grad():
                for name, value in model.named_parameters():
                    if "lora_B" in name:
                        value.add_(0.1)

    with pytest.raises(RunError, match="logits differ from the trained model's"):
        run_recipe(tmp_path, TEXT, observer=Damaging())
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["base"]["trainable_parameters"], "what was written before stays"
    assert manifest["adapter"]
