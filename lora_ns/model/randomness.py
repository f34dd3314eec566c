"""Random numbers in a base during training; each process draws its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DRAWS = ("drop", "jitter")
"""Parts of the names of settings for dropout shares and noise sizes."""


def drawing(model: PreTrainedModel) -> str | None:
    """Return the first setting or layer of a model that draws random numbers, with its value; None if none does.

    Settings are checked as well as layers, because attention applies dropout by a function call.
    """
    import torch

    for name, value in _numbers(model.config.to_dict()):
        if value and any(part in name for part in _DRAWS):
            return f"`{name}` is {value:g}"
    for name, module in model.named_modules():
        share = module.p if isinstance(module, torch.nn.modules.dropout._DropoutNd) else 0
        if share:
            return f"`{name}` has dropout {share:g}"
    return None


def _numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield numeric settings, including those of the parts of a composed model."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value
