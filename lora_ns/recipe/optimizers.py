"""Properties of the optimizers, by their transformers names: package, state size and settings.

A test compares the names with the installed transformers, and the sizes with the real optimizer states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Optimizer:
    """An optimizer of `training.optim`."""

    state: float
    """Bytes of optimizer state per trained parameter, not counting the gradient."""
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


_ADAM = Optimizer(8.0)


_8BIT = Optimizer(2.0, "bitsandbytes", "bitsandbytes")


_ONE = Optimizer(4.0, reads_betas=False)


_TORCHAO = Optimizer(2.0, "torchao", "torchao")


_FREE = Optimizer(8.0, "schedulefree", "schedulefree", schedules_itself=True)


_WHOLE = replace(_ADAM, refused="it works on the gradients of whole weights, which an adapter does not train")


_BACKWARD = Optimizer(
    0.0, refused="it changes weights during the backward pass, without gradient accumulation and clipping"
)


OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw_torch": _ADAM,
    "adamw_torch_fused": _ADAM,
    "adamw_8bit": _8BIT,
    "adamw_bnb_8bit": _8BIT,
    "paged_adamw_8bit": _8BIT,
    "paged_adamw_32bit": replace(_8BIT, state=8.0),
    "ademamix": replace(_8BIT, state=12.0),
    "ademamix_8bit": replace(_8BIT, state=3.0),
    "paged_ademamix_32bit": replace(_8BIT, state=12.0),
    "paged_ademamix_8bit": replace(_8BIT, state=3.0),
    "lion_32bit": replace(_8BIT, state=4.0),
    "lion_8bit": replace(_8BIT, state=1.0),
    "paged_lion_32bit": replace(_8BIT, state=4.0),
    "paged_lion_8bit": replace(_8BIT, state=1.0),
    "rmsprop": _ONE,
    "rmsprop_bnb": replace(_8BIT, state=4.0, reads_betas=False),
    "rmsprop_bnb_8bit": replace(_8BIT, state=1.0, reads_betas=False),
    "rmsprop_bnb_32bit": replace(_8BIT, state=4.0, reads_betas=False),
    "adagrad": _ONE,
    # Sums of rows and columns only: for a factor of rank 16, a sixteenth of its size.
    "adafactor": replace(_ONE, state=0.25),
    "sgd": replace(_ONE, state=0.0),
    "adamw_torch_8bit": _TORCHAO,
    "adamw_torch_4bit": replace(_TORCHAO, state=1.0),
    "stable_adamw": Optimizer(8.0, "optimi", "torch-optimi"),
    "grokadamw": Optimizer(12.0, "grokadamw", "grokadamw", reads_betas=False),
    "schedule_free_adamw": _FREE,
    "schedule_free_radam": _FREE,
    "schedule_free_sgd": replace(_FREE, state=4.0, reads_betas=False),
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
