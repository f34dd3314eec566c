"""What of a base draws random numbers while it is trained: each process draws its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DRAWS = ("drop", "jitter")
"""Parts of the names of settings that are shares of what is left out, or sizes of noise."""


def drawing(model: PreTrainedModel) -> str | None:
    """The first setting or layer of a model that draws, with its value; None if nothing does.

    Settings are read beside the layers, since attention drops by a function.
    """
    import torch

    for name, value in _numbers(model.config.to_dict()):
        if value and any(part in name for part in _DRAWS):
            return f"`{name}` is {value:g}"
    for name, module in model.named_modules():
        share = module.p if isinstance(module, torch.nn.modules.dropout._DropoutNd) else 0
        if share:
            return f"`{name}` drops {share:g}"
    return None


def _numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Settings that are numbers, those of the parts of a composed model too."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value
