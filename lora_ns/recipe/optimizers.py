"""Properties of the optimizers, by their transformers names: package, state size and settings.

A test compares the names with the installed transformers, and the sizes with the real optimizer states.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

_SMALLEST, _BLOCK = 4096, 256
"""Entries from which 8-bit optimizers quantise a state, and entries that share a scale."""


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of `training.optim`."""

    averages: int
    """Tensors that it keeps for each trained tensor, as large as that."""
    package: str = ""
    """Import name of its package, empty for torch and transformers."""
    install: str = ""
    """Name of the package for `pip install`."""
    reads_betas: bool = True
    """True if it uses `adam_beta1` and `adam_beta2`."""
    schedules_itself: bool = False
    """True if it replaces a learning rate schedule."""
    refused: str = ""
    """Reason if lorans does not support it."""
    kept: Literal["float32", "bitsandbytes 8-bit", "torchao 8-bit", "torchao 4-bit", "rows and columns"] = "float32"
    """How it keeps them; small tensors in float32 in any case."""
    scalars: int = 1
    """Single numbers in float32 that it keeps for each trained tensor, such as its step."""
    maps: int = 0
    """Tables of quantised values that all states share."""

    def state_bytes(self, shapes: Iterable[tuple[int, ...]]) -> int:
        """Return the bytes of its state for trained tensors in float32, without their gradients."""
        sizes = [self._bytes_of(shape) for shape in shapes]
        is_quantised = any(is_quantised for _, is_quantised in sizes)
        return sum(size for size, _ in sizes) + (4 * 256 * self.maps if is_quantised else 0)

    def _bytes_of(self, shape: tuple[int, ...]) -> tuple[int, bool]:
        """Return the bytes of the state of one tensor, and whether it is quantised."""
        entries, own = math.prod(shape), 4 * self.scalars
        if self.kept == "rows and columns" and len(shape) > 1:
            return own + 4 * (entries // shape[-1] + entries // shape[-2]), False
        is_large = entries >= _SMALLEST and (entries % _BLOCK == 0 or self.kept == "bitsandbytes 8-bit")
        if self.kept in {"float32", "rows and columns"} or not is_large:
            return own + 4 * entries * self.averages, False
        scales = 4 * math.ceil(entries / _BLOCK)
        size = {
            "bitsandbytes 8-bit": entries + scales,
            "torchao 8-bit": entries + scales + 4 * 256,
            "torchao 4-bit": entries // 2 + scales + 4 * 16,
        }
        return own + size[self.kept] * self.averages, True


_ADAM = Optimizer(2)


_BNB = Optimizer(2, "bitsandbytes", "bitsandbytes", scalars=0)


_8BIT = replace(_BNB, kept="bitsandbytes 8-bit", maps=2)


_ONE_8BIT = replace(_8BIT, averages=1, maps=1)


_ONE = Optimizer(1, reads_betas=False)


_TORCHAO = Optimizer(2, "torchao", "torchao", kept="torchao 8-bit")


_FREE = Optimizer(2, "schedulefree", "schedulefree", schedules_itself=True)


_WHOLE = replace(_ADAM, refused="it works on the gradients of whole weights, which an adapter does not train")


_BACKWARD = Optimizer(
    0, refused="it changes weights during the backward pass, without gradient accumulation and clipping"
)


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw_torch": _ADAM,
    "adamw_torch_fused": _ADAM,
    "adamw_8bit": _8BIT,
    "adamw_bnb_8bit": _8BIT,
    "paged_adamw_8bit": _8BIT,
    "paged_adamw_32bit": _BNB,
    "ademamix": replace(_BNB, averages=3),
    "ademamix_8bit": replace(_8BIT, averages=3),
    "paged_ademamix_32bit": replace(_BNB, averages=3),
    "paged_ademamix_8bit": replace(_8BIT, averages=3),
    "lion_32bit": replace(_BNB, averages=1),
    "lion_8bit": _ONE_8BIT,
    "paged_lion_32bit": replace(_BNB, averages=1),
    "paged_lion_8bit": _ONE_8BIT,
    "rmsprop": _ONE,
    "rmsprop_bnb": replace(_BNB, averages=1, reads_betas=False),
    "rmsprop_bnb_8bit": replace(_ONE_8BIT, reads_betas=False),
    "rmsprop_bnb_32bit": replace(_BNB, averages=1, reads_betas=False),
    "adagrad": _ONE,
    "adafactor": replace(_ONE, kept="rows and columns"),
    "sgd": replace(_ONE, averages=0, scalars=0),
    "adamw_torch_8bit": _TORCHAO,
    "adamw_torch_4bit": replace(_TORCHAO, kept="torchao 4-bit"),
    "stable_adamw": Optimizer(2, "optimi", "torch-optimi"),
    "grokadamw": Optimizer(3, "grokadamw", "grokadamw", reads_betas=False),
    "schedule_free_adamw": _FREE,
    "schedule_free_radam": _FREE,
    "schedule_free_sgd": replace(_FREE, averages=1, reads_betas=False),
    **dict.fromkeys(
        (
            "galore_adamw",
            "galore_adamw_8bit",
            "galore_adafactor",
            "galore_adamw_layerwise",
            "galore_adamw_8bit_layerwise",
            "galore_adafactor_layerwise",
            "apollo_adamw",
            "apollo_adamw_layerwise",
        ),
        _WHOLE,
    ),
    "lomo": _BACKWARD,
    "adalomo": _BACKWARD,
    "adamw_torch_xla": replace(_ADAM, refused="it is for XLA devices"),
    "adamw_torch_npu_fused": replace(_ADAM, refused="it is for NPUs"),
    "adamw_anyprecision": replace(_ADAM, refused="its package, torchdistx, is no longer maintained"),
}
