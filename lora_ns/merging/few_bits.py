"""Weights as a base in few bits has them: quantised by bitsandbytes and dequantised, one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lora_ns.merging.refusal import WholeModelError
from lora_ns.model.files import Base
from lora_ns.model.load import Loading, empty_base, quantization_settings

if TYPE_CHECKING:
    from torch import Tensor

RoundTrip = Callable[["Tensor"], "Tensor"]
"""A function from a weight to the values that it has after quantising."""

_LAYERS = frozenset({"Linear4bit", "Linear8bitLt"})


def round_trips(base: Base, loading: Loading) -> Mapping[str, RoundTrip]:
    """Return the round trip of each weight that transformers quantises when it loads a base, by parameter.

    Raises:
        WholeModelError: if it is not bitsandbytes that quantises, or not linear layers that are quantised.
    """
    import torch

    if loading.quantization.bits is None:
        return {}
    if loading.quantization.quant_method != "bitsandbytes":
        raise WholeModelError(f"the base was quantised by {loading.quantization.method} for training")
    from transformers.quantizers import AutoHfQuantizer

    empty = empty_base(base, loading.task_type, loading.trust_remote_code)
    settings = quantization_settings(base, loading, getattr(torch, loading.dtype))
    AutoHfQuantizer.from_config(settings, pre_quantized=False).preprocess_model(model=empty, device_map={"": "cpu"})
    layers = {name: module for name, module in empty.named_modules() if type(module).__name__ in _LAYERS}
    for name, layer in layers.items():
        if layer.source_cls is not torch.nn.Linear:
            raise WholeModelError(f"`{name}` is quantised and is a {layer.source_cls.__name__}")
    return {f"{name}.weight": _round_trip(layer) for name, layer in layers.items()}


def _round_trip(layer: Any) -> RoundTrip:
    """Return the function that quantises as transformers does when it loads, and dequantises as it does then."""

    def quantised(weight: Tensor) -> Tensor:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        arguments = {key: value for key, value in vars(layer.weight).items() if key != "SCB"}
        packed = type(layer.weight)(weight.clone(), requires_grad=False, **arguments).to("cpu")
        found: Tensor = dequantize_bnb_weight(packed, _State())
        return found

    return quantised


class _State:
    """The state of an 8-bit layer that has not run yet."""

    SCB = None
