"""Casts of the inputs of LoRA's layers, which autocast makes superfluous.

PEFT casts the input of a layer to the dtype of the adapter's weights, float32, and under autocast each product casts it
back to bfloat16: two casts of each input in the forward pass, two of its gradient, and a copy that is kept until then.
PEFT's layers of 4-bit weights leave this out under autocast; those of plain weights have a switch for it (see
`peft.helpers.disable_input_dtype_casting`). A number of bfloat16 is the same after the detour.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def casts_left_to_autocast(model: Any) -> Iterator[None]:
    """Let each layer of a model's LoRA cast its input only where autocast does not."""
    layers = castable(model)
    hooks = [layer.register_forward_pre_hook(_decide) for layer in layers]
    try:
        yield
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.cast_input_dtype_enabled = True


def castable(model: Any) -> list[Any]:
    """Return the layers of LoRA without a variant such as DoRA, which may compute with the input itself."""
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    return [
        layer
        for layer in layers
        if getattr(layer, "cast_input_dtype_enabled", False) and not getattr(layer, "lora_variant", None)
    ]


def _decide(layer: Any, inputs: tuple[Any, ...]) -> None:
    """Switch the cast of a layer off under autocast, and on without it."""
    import torch

    layer.cast_input_dtype_enabled = not (inputs and torch.is_autocast_enabled(inputs[0].device.type))
