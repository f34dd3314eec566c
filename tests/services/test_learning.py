"""What is not learned is told with its cause, and ordinary runs are not."""

import contextlib

import pytest

pytest.importorskip("torch")

import torch
from services_recipes import RECIPE, run_recipe

from lora_ns.errors import RunError
from lora_ns.methods import METHODS
from lora_ns.run.observer import SilentObserver
from lora_ns.training.learning import Gradients, Losses

SMALL = RECIPE.replace("max_samples = 64", "max_samples = 24").replace("max_eval_samples = 8", "max_eval_samples = 2")
USUAL = SMALL.replace("learning_rate = 5e-3\n", "")


class Told(SilentObserver):
    """What the user is told once the training has begun; what is said of rows and rates before has its own tests."""

    def __init__(self):
        self.warnings = []

    def begin(self, step, steps):
        self.warnings.clear()

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def told(tmp_path):
    def run(text, *overrides, kind=Told):
        observer = kind()
        run_recipe(tmp_path, text, *overrides, observer=observer)
        return observer.warnings

    return run


def with_a_loss(change):
    """An observer that plants another loss."""

    class Planting(Told):
        def ready(self, trainer):
            compute = trainer.compute_loss
            trainer.compute_loss = lambda *given, **more: change(compute(*given, **more))

    return Planting


def test_what_has_no_gradient_is_named(told):
    class Planting(Told):
        def adapted(self, model):
            model.base_model.model.unused = torch.nn.Parameter(torch.ones(3))

    (warning,) = told(SMALL, kind=Planting)
    assert warning.endswith(
        "trainable parameters have no gradient in 5 steps, such as `base_model.model.unused`: their modules do not "
        "affect the loss"
    )
    assert warning.startswith("1 of ")


def test_what_does_not_move_is_named(told):
    warnings = told(SMALL, "training.learning_rate=1e-12")
    assert "trainable parameters do not change in 5 steps, such as `" in warnings[0]
    assert warnings[0].endswith(": their updates round to zero; raise `training.learning_rate`")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda loss: loss * 0,
            r"step 1: the loss is exactly 0, so nothing is learned: no token or label contributes \(inspect the rows "
            r"with `lorans validate --show`\)",
        ),
        (
            lambda loss: loss * float("nan"),
            "the gradient of 3 steps in a row was not finite, up to step 3",
        ),
    ],
    ids=["zero", "not a number"],
)
def test_a_loss_that_is_none_ends_the_run(told, change, expected):
    with pytest.raises(RunError, match=expected):
        told(SMALL, kind=with_a_loss(change))


def test_a_run_in_which_nothing_has_a_gradient_ends():
    model, gradients = torch.nn.Linear(2, 2), Gradients()
    gradients.begin(model)
    for step in range(1, 5):
        assert gradients.look(model, step) == ()
    with pytest.raises(
        RunError, match="no gradient in 5 steps: no trainable parameter, such as `weight`, affects the loss"
    ):
        gradients.look(model, 5)


def test_a_second_factor_that_has_no_gradient_at_first_is_not_told():
    factors = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)])
    torch.nn.init.zeros_(factors[1].weight)
    optimizer, gradients = torch.optim.SGD(factors.parameters(), lr=0.1), Gradients()
    gradients.begin(factors)
    for step in range(1, 6):
        optimizer.zero_grad()
        factors[1](factors[0](torch.ones(1, 2))).sum().backward()
        assert not (step == 1 and factors[0].weight.grad.any())
        optimizer.step()
        assert not gradients.look(factors, step)


def test_a_parameter_that_moves_without_a_gradient_to_be_seen_ends_no_run():
    """As under DeepSpeed, which keeps the gradients to itself."""
    model, gradients = torch.nn.Linear(2, 2), Gradients()
    gradients.begin(model)
    for step in range(1, 7):
        with torch.no_grad():
            model.weight.add_(0.1)
        assert not gradients.look(model, step, warming=step % 2 == 0)


@pytest.mark.parametrize("learns", [True, False])
def test_divided_weights_are_judged_as_a_whole(learns):
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    model, gradients = torch.nn.Linear(2, 2), Gradients()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for name, value in list(model.named_parameters()):
            setattr(model, name, torch.nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)])))
        gradients.begin(model)
        with contextlib.nullcontext() if learns else pytest.raises(RunError, match="no gradient in 5 steps"):
            for step in range(1, 7):
                for value in model.parameters() if learns else ():
                    value.grad = torch.ones_like(value)
                    value.data.add_(0.1)
                assert not gradients.look(model, step)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("evaluated", [True, False])
def test_virtual_tokens_at_a_hopeless_rate_are_told(told, evaluated):
    text = USUAL if evaluated else USUAL.replace('eval_path = "lorans:quickstart/eval.jsonl"\n', "")
    more = () if evaluated else ("dataset.eval_fraction=0",)
    (warning,) = told(text, "peft.method=prompt-tuning", "training.learning_rate=1e-6", *more)[-1:]
    assert warning.startswith("the loss is flat after 6 steps, ")
    assert warning.endswith(
        ": a learning rate of 1e-06 is too low for prompt-tuning (set `training.learning_rate`; 0.03 is typical)"
    )


@pytest.mark.parametrize("method", ["lora", "adalora", "prefix-tuning"])
def test_an_ordinary_run_is_not_warned(told, method):
    warnings = told(USUAL, f"peft.method={method}", "training.warmup_steps=3")
    assert not [text for text in warnings if "gradient" in text or "do not change" in text or "flat" in text]


@pytest.mark.parametrize(
    ("method", "rate", "losses", "flat"),
    [
        ("prompt-tuning", 1e-6, [6.0, 5.9999], True),
        ("prompt-tuning", 1e-6, [6.0, 5.0], False),
        ("prompt-tuning", 3e-2, [6.0, 6.0], False),
        ("lora", 1e-6, [6.0, 6.0], False),
        ("prompt-tuning", 1e-6, [6.0], False),
        ("prompt-tuning", 1e-6, [], False),
        ("prompt-tuning", 1e-6, [6.0, float("nan")], False),
    ],
)
def test_a_flat_loss_is_told_once_and_only_with_a_rate_that_explains_it(method, rate, losses, flat):
    found = Losses(METHODS[method](method=method), rate)
    for loss in losses:
        found.add({"eval_loss": loss})
    assert (found.warning() is not None) == flat
    assert found.warning() is None
