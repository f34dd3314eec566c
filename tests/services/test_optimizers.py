"""Every optimizer trains, keeps as much as is said of it and is resumed, or is refused before there is a run."""

import json
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")

import torch
import transformers
from safetensors.torch import load_file
from services_recipes import RECIPE, check_resumes_to_the_same_bits, run_recipe
from transformers.training_args import OptimizerNames
from typer.testing import CliRunner

from lora_ns.cli.app import app
from lora_ns.errors import MissingError
from lora_ns.model.adapter import WEIGHTS
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.run.observer import SilentObserver

FEW = ("dataset.max_samples=8", "dataset.max_eval_samples=2", "training.warmup_steps=0", "training.logging_steps=1")
HERE = [name for name, row in OPTIMIZERS.items() if not row.refused and (not row.package or find_spec(row.package))]
ABSENT = [name for name, row in OPTIMIZERS.items() if not row.refused and name not in HERE]


def test_the_optimizers_are_those_of_the_installed_transformers():
    assert set(OPTIMIZERS) == {name.value for name in OptimizerNames}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A trainer with everything but its optimizer, and how its adapter began."""
    made = []

    class Keeper(SilentObserver):
        def ready(self, trainer):
            begun = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
            made.extend((trainer, begun))

    # Layers of one kind: torchao compiles its step anew for each shape.
    given = (*FEW, 'peft.target_modules=["down_proj"]', "training.max_steps=3")
    run_recipe(tmp_path_factory.mktemp("optimizers"), RECIPE, *given, observer=Keeper())
    return made


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.matrix) if name == "adamw_torch_8bit" else name for name in HERE]
)
def test_an_optimizer_lowers_the_loss(trainer, name):
    trainer, begun = trainer
    with torch.no_grad():
        for key, parameter in trainer.model.named_parameters():
            if key in begun:
                parameter.copy_(begun[key])
    trainer.args.optim, trainer.optimizer, trainer.lr_scheduler = name, None, None
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.eval_on_start = False
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


def tensors(value):
    """The plain tensors that a state is stored in: those of torchao are several that look like one."""
    if hasattr(value, "__tensor_flatten__"):
        return [part for name in value.__tensor_flatten__()[0] for part in tensors(getattr(value, name))]
    if isinstance(value, dict):
        return [part for inner in value.values() for part in tensors(inner)]
    return [value] if torch.is_tensor(value) else []


SHAPES = [(64,), (5000,), (16, 64), (1, 4095), (16, 256), (100, 100), (8, 8192), (2, 16, 32), (3, 32, 64)]
"""Small and large tensors, some of which are no multiples of a block."""


@pytest.mark.parametrize("name", HERE)
def test_the_state_of_an_optimizer_is_known_to_the_byte(tmp_path, name):
    args = transformers.TrainingArguments(str(tmp_path), optim=name, use_cpu=True)
    kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(args)
    trained = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    optimizer = kind(trained, **settings)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    with torch.compiler.set_stance("force_eager"):  # what is kept does not depend on how the step is computed
        optimizer.step()
    kept = [part for parameter in trained for value in optimizer.state[parameter].values() for part in tensors(value)]
    once = {part.untyped_storage().data_ptr(): part.nbytes for part in kept}
    assert OPTIMIZERS[name].state_bytes(SHAPES) == sum(once.values())


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_a_run_in_8_bits_is_resumed_bit_by_bit(tmp_path, name):
    steps = ("training.max_steps=4", "training.save_steps=2", f"training.optim={name}", "peft.lora_r=48")
    run = run_recipe(tmp_path, RECIPE, *FEW, *steps)
    state = torch.load(run.checkpoints / "checkpoint-2/optimizer.pt")["state"][0]
    parts = [part for part in state.values() if isinstance(part, dict)]
    assert [name for part in parts for name, value in part.items() if getattr(value, "dtype", None) == torch.uint8]
    check_resumes_to_the_same_bits(run, 4)


@pytest.mark.parametrize("name", ABSENT)
def test_an_optimizer_whose_package_is_missing_is_refused_before_a_run(tmp_path, name):
    row = OPTIMIZERS[name]
    schedule = ("training.lr_scheduler_type=constant",) if row.schedules_itself else ()
    with pytest.raises(MissingError) as caught:
        run_recipe(tmp_path, RECIPE, *schedule, f"training.optim={name}")
    told = f"--set: training.optim: `{row.package}` is not installed (`pip install {row.install}`)"
    assert str(caught.value) == told
    assert not (tmp_path / "run").exists()
    recipe = [str(tmp_path / "recipe.toml"), *(part for key in schedule for part in ("--set", key))]
    answer = CliRunner().invoke(app, ["validate", *recipe, "--set", f"training.optim={name}"])
    assert isinstance(answer.exception, MissingError)
    assert answer.exception.exit_code == 3


class Free(torch.optim.SGD):
    """An optimizer that has other weights in training than in use, as those of schedulefree do."""

    def train(self):
        pass

    def eval(self):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.fill_(0.25)


def test_the_weights_to_use_are_saved_of_an_optimizer_that_trains_others(tmp_path):
    class Freeing(SilentObserver):
        def ready(self, trainer):
            trainer.optimizer = Free((p for p in trainer.model.parameters() if p.requires_grad), lr=1e-3)

    run = run_recipe(tmp_path, RECIPE, *FEW, "training.max_steps=1", "training.eval_steps=2", observer=Freeing())
    assert all((value == 0.25).all() for value in load_file(run.adapter / WEIGHTS).values())


def test_the_evaluation_of_the_weights_that_are_kept_is_told(tmp_path):
    best = ("training.load_best_model_at_end=true", "training.extra.greater_is_better=true")
    run = run_recipe(
        tmp_path, RECIPE, *FEW, *best, "training.max_steps=4", "training.eval_steps=2", "training.save_steps=2"
    )
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    metrics = run.read().metrics
    assert losses[2] > losses[4]
    assert (metrics["before/eval_loss"], metrics["eval_loss"]) == (losses[0], losses[2])
    expected = load_file(run.checkpoints / "checkpoint-2" / WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in load_file(run.adapter / WEIGHTS).items())
