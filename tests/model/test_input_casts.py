"""Inputs that autocast casts anyway: the same bits, fewer operators, and fewer copies."""

import contextlib

import pytest

pytest.importorskip("torch")

import peft
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora_ns.model.input_casts import castable, casts_left_to_autocast
from lora_ns.plan.memory.count import Variant, build

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


class Casts(TorchDispatchMode):
    """Counts casts."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


def adapted(**settings):
    base = build("llama", Variant(), 2).unload()
    model = peft.get_peft_model(base, peft.LoraConfig(**LORA | settings)).train()
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.data = value.data.float()
            torch.nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model


def trained(model, is_left, autocast=True):
    """Loss, gradients and casts of a step."""
    model.zero_grad()
    torch.manual_seed(2)
    ids = torch.arange(40).view(2, 20)
    left = casts_left_to_autocast(model) if is_left else contextlib.nullcontext()
    with Casts() as casts, left:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    return [loss.detach(), *(value.grad for value in model.parameters() if value.requires_grad)], casts.count


@pytest.mark.parametrize(
    "settings", [{}, {"lora_dropout": 0.2}, {"use_rslora": True}, {"modules_to_save": ["lm_head"]}]
)
def test_the_step_is_the_same_to_the_bit_with_fewer_casts(settings):
    model = adapted(**settings)
    (expected, before), (found, after) = trained(model, False), trained(model, True)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    both_ways = 2 * 2 * 7 * 2  # of seven layers in each of two
    assert after == before - (both_ways - 2 * 3)  # the first layer's input has no gradient
    assert all(layer.cast_input_dtype_enabled for layer in castable(model))


@pytest.mark.parametrize(
    ("settings", "autocast"), [({"use_dora": True}, True), ({}, False)], ids=["DoRA", "no autocast"]
)
def test_what_needs_the_cast_keeps_it(settings, autocast):
    model = adapted(**settings)
    if not autocast:
        model.float()
    (expected, before), (found, after) = trained(model, False, autocast), trained(model, True, autocast)
    assert after == before
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_an_error_leaves_the_layers_as_they_were():
    model = adapted()
    layers = castable(model)
    with pytest.raises(IndexError), casts_left_to_autocast(model):
        model(input_ids=torch.tensor([[10**6]]))  # a token that there is not
    assert layers
    assert all(layer.cast_input_dtype_enabled and not layer._forward_pre_hooks for layer in layers)


def test_other_methods_are_left_alone():
    base = build("llama", Variant(), 2).unload()
    model = peft.get_peft_model(base, peft.IA3Config(task_type="CAUSAL_LM"))
    with casts_left_to_autocast(model):
        assert not castable(model)


def test_a_model_without_autocast_casts_also_while_autocast_is_awaited():
    """As when a model answers in the middle of a training."""
    model = adapted()
    ids = torch.arange(20).view(1, 20)
    with casts_left_to_autocast(model):
        trained(model, False)
        model(input_ids=ids)
        assert all(layer.cast_input_dtype_enabled for layer in castable(model))


def test_checkpointed_layers_are_recomputed_alike():
    model = adapted()
    expected, _ = trained(model, True)
    model.enable_input_require_grads()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    found, _ = trained(model, True)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
