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


class InputCasts:
    """The layers of a model's LoRA whose inputs PEFT casts."""

    def __init__(self, model: Any) -> None:
        from peft.tuners.lora import LoraLayer

        layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
        # A variant, such as DoRA, may compute with the input itself.
        self._layers: list[Any] = [layer for layer in layers if not getattr(layer, "lora_variant", None)]

    @contextlib.contextmanager
    def left_to_autocast(self, device: str) -> Iterator[None]:
        """Leave the casts to autocast, if it is on for a kind of device."""
        import torch

        changed = (
            [layer for layer in self._layers if getattr(layer, "cast_input_dtype_enabled", False)]
            if torch.is_autocast_enabled(device)
            else []
        )
        for layer in changed:
            layer.cast_input_dtype_enabled = False
        try:
            yield
        finally:
            for layer in changed:
                layer.cast_input_dtype_enabled = True
