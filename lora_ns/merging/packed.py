"""Weights that bitsandbytes packed before they were stored, dequantised when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_ns.merging.layout import Layout
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.stored import DTYPES, Stored
from lora_ns.quantizers import Quantization

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_STATE = ".quant_state.bitsandbytes__"
_SCALE = ".SCB"
_FORMAT = ".weight_format"


@dataclass(frozen=True)
class Packed(Stored):
    """A weight with its scales. Its shape and dtype are those of its values."""

    packed: Stored
    """The packed values."""
    parts: Mapping[str, Stored]
    """What is stored beside them, by bitsandbytes' names."""
    quantization: Quantization

    def read(self) -> Tensor:
        """Dequantise the weight, as transformers dequantises a model."""
        import bitsandbytes

        data, parts = self.packed.read(), {name: part.read() for name, part in self.parts.items()}
        if "SCB" in parts:
            found: Tensor = bitsandbytes.functional.int8_vectorwise_dequant(data, parts["SCB"])
        else:
            state = bitsandbytes.functional.QuantState.from_dict(parts, device=data.device)
            found = bitsandbytes.functional.dequantize_4bit(data, state)
        return found

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Dequantise the weight, and yield its values in flat blocks of at most so many."""
        import torch

        yield from torch.split(self.read().view(-1), size)

    def values(self, weight: Tensor) -> Tensor:
        """Return the values of the layer: those that were read."""
        return weight

    def layer(self, _: Tensor, bias: Tensor | None) -> nn.Module:
        """Return the 8-bit layer, which rounds its inputs when it computes."""
        import bitsandbytes
        import torch

        threshold = getattr(self.quantization, "llm_int8_threshold", 0.0)
        layer: Any = bitsandbytes.nn.Linear8bitLt(
            self.shape[1], self.shape[0], bias is not None, has_fp16_weights=False, threshold=threshold, device="meta"
        )
        data, scales = self.packed.read(), self.parts["SCB"].read()
        layer.weight = bitsandbytes.nn.Int8Params(data, requires_grad=False, SCB=scales).to(data.device)
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias, requires_grad=False)
        found: nn.Module = layer.eval()
        return found


def unpacked(stored: Mapping[str, Stored], quantization: Quantization) -> dict[str, Stored]:
    """Return the tensors of a base with its packed weights as `Packed` ones, and without what is stored beside them.

    Raises:
        WholeModelError: if the base was not packed by bitsandbytes.
    """
    if quantization.quant_method != "bitsandbytes":
        raise WholeModelError(f"the base is stored in the format of {quantization.method}")
    found = {name: place for name, place in stored.items() if not name.endswith(_FORMAT)}
    for name in stored:
        weight, state, _ = name.partition(_STATE)
        if state:
            parts = {one: found.pop(one) for one in stored if one.startswith(f"{weight}.") and one in found}
            found[weight] = _in_four_bits(found[weight], parts, stored[name], quantization)
        elif name.endswith(_SCALE):
            weight = f"{name.removesuffix(_SCALE)}.weight"
            packed = found[weight]
            fields = {**vars(packed), "dtype": "F32", "packed": packed, "quantization": quantization}
            found[weight] = Packed(**fields, parts={"SCB": found.pop(name)})
    return found


def _in_four_bits(packed: Stored, parts: Mapping[str, Stored], state: Stored, quantization: Quantization) -> Packed:
    table = json.loads(bytes(state.read().numpy()))
    dtype = next(name for name, torch_name in DTYPES.items() if torch_name == table["dtype"])
    place = replace(packed, dtype=dtype, shape=tuple(table["shape"]))
    return Packed(**vars(place), packed=packed, parts=parts, quantization=quantization)


def packed_layers(plan: Layout, skeleton: PreTrainedModel) -> dict[str, Packed]:
    """Return the packed weights of a base by the parameter of the model that each is.

    Raises:
        WholeModelError: if one belongs to another module than a linear layer, whose weight may be transposed.
    """
    import torch

    found = {}
    for name, tensor in plan.parameters.items():
        if isinstance(tensor.stored, Packed):
            module = skeleton.get_submodule(name.rpartition(".")[0])
            if type(module) is not torch.nn.Linear:
                raise WholeModelError(f"`{name}` is quantised and belongs to a {type(module).__name__}")
            found[name] = tensor.stored
    return found
