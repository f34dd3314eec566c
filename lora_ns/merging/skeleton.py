"""A model whose base has no weights in memory: its adapter is loaded, and its buffers are computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import ModelError
from lora_ns.merging.refusal import WholeModelError
from lora_ns.model.files import Base
from lora_ns.model.load import Loading, load_base
from lora_ns.model.saved_adapter import check_config, load_adapter

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def load_skeleton(base: Base, loading: Loading) -> PreTrainedModel:
    """Load a base onto the meta device. transformers checks names and shapes as always, and reads no values."""
    return load_base(base, replace(loading, device="meta"))


def attach(skeleton: PreTrainedModel, folder: Path, *, in_float32: bool = False) -> PeftModel:
    """Load an adapter onto a skeleton, and convert it to float32. Parameters of the base are `absent` ones.

    Args:
        skeleton: the base on the meta device.
        folder: folder of the adapter.
        in_float32: True if the adapter must be created in float32, whatever the dtype of the base.

    Raises:
        UsageError: if a key of the adapter has no place in the model, or the other way round.
        WholeModelError: if the adapter has parameters that are not layers, needs the weights of the base, or has its
            own values for some of them.
    """
    config = check_config(folder)
    if getattr(config, "target_parameters", None):
        raise WholeModelError("the adapter has `target_parameters`")
    whole = set(getattr(config, "modules_to_save", None) or ())
    fillers = _fill(skeleton, whole, in_float32=in_float32)
    try:
        adapted = load_adapter(skeleton, folder)
    except ModelError:  # whatever else is wrong is reported by loading the whole model
        raise WholeModelError("PEFT computes parts of this adapter from the weights of the base") from None
    for path, module in skeleton.named_modules():
        for name, value in module.named_parameters(recurse=False):
            filler = fillers.get(id(value))
            if filler is None:
                continue
            if filler.can_change and not value.isnan().all():
                raise WholeModelError(f"the adapter has its own values for `{path}.{name}`")
            module.register_parameter(name, absent(value))
    return adapted.float()


def without_weights(skeleton: PreTrainedModel) -> PreTrainedModel:
    """Return a skeleton whose buffers are computed, and whose parameters are `absent` ones."""
    fillers = _fill(skeleton, set(), in_float32=False)
    for module in skeleton.modules():
        for name, value in module.named_parameters(recurse=False):
            if id(value) in fillers:
                module.register_parameter(name, absent(value))
    return skeleton


def absent(values: Any) -> Any:
    """Return a parameter in float32 that stands for values which are not in memory.

    It is NaN everywhere, so that whatever is computed from it by mistake is NaN, too. On the meta device it would give
    what happens to be in memory: torch multiplies matrices of both devices without an error.
    """
    import torch

    one = torch.tensor(float("nan")) if values.is_floating_point() else torch.zeros((), dtype=values.dtype)
    return _frozen(one.expand(values.shape))


def is_absent(values: Tensor) -> bool:
    """True for an `absent` parameter."""
    is_one = values.untyped_storage().nbytes() == values.element_size()
    return is_one and (values.numel() > 1 or bool(values.isnan().all()))


@dataclass(frozen=True)
class _Filler:
    """A parameter that stands for one of the base."""

    value: Any
    can_change: bool
    """True if an adapter can have values for it: NaN are then replaced."""


def _fill(skeleton: PreTrainedModel, whole: set[str], *, in_float32: bool) -> dict[int, _Filler]:
    """Replace the parameters of a skeleton by fillers, and its buffers by real ones.

    PEFT creates adapters where the weights of their layers are, and copies some layers. While it loads, matrices of
    the base are therefore views of a single value. That is NaN, so that a method which computes something from the
    weights of the base fails, instead of merging something else than it trained. Modules that PEFT copies, because
    they were trained in full, are zeros.

    Returns:
        The fillers, by the id of the parameter.
    """
    import torch

    buffers = dict(_buffers(skeleton))
    placed: dict[int, _Filler] = {}
    for path, module in skeleton.named_modules():
        is_copied = bool(whole.intersection(path.split(".")))
        for name, value in module.named_parameters(recurse=False):
            is_float, is_real = value.is_floating_point(), is_copied or value.ndim < 2
            dtype = torch.float32 if in_float32 and is_float else value.dtype
            content = float("nan") if is_float and not is_copied else 0
            filled = torch.full(value.shape if is_real else (), content, dtype=dtype).expand(value.shape)
            filler = _Filler(_frozen(filled), can_change=is_real and is_float and not is_copied)
            module.register_parameter(name, placed.setdefault(id(value), filler).value)
        for name in [name for name, _ in module.named_buffers(recurse=False)]:
            module._buffers[name] = buffers[f"{path}.{name}" if path else name]
    return {id(filler.value): filler for filler in placed.values()}


def _frozen(values: Any) -> Any:
    import torch

    return torch.nn.Parameter(values, requires_grad=False)


def _buffers(skeleton: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Yield the buffers of a model as its constructor computes them."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        plain: nn.Module = type(skeleton)(skeleton.config)
    yield from plain.named_buffers()
