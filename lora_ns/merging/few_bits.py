"""Linear layers as a base in few bits has them: quantised by bitsandbytes, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.merging.refusal import WholeModelError
from lora_ns.model.files import Base
from lora_ns.model.load import Loading, empty_base, quantization_settings

if TYPE_CHECKING:
    from torch import Tensor, nn

_LAYERS = frozenset({"Linear4bit", "Linear8bitLt"})


@dataclass(frozen=True)
class FewBits:
    """A linear layer that transformers quantises when it loads a base."""

    empty: Any
    """The layer on the meta device, with its settings."""

    def values(self, weight: Tensor) -> Tensor:
        """Quantise a weight as transformers does when it loads, and dequantise it as transformers does then."""
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        found: Tensor = dequantize_bnb_weight(self._packed(weight), _State())
        return found

    def layer(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """Return the 8-bit layer with weights, which rounds its inputs when it computes."""
        import torch

        size, threshold = self.empty.weight.shape, self.empty.state.threshold
        layer: Any = type(self.empty)(
            size[1], size[0], bias is not None, has_fp16_weights=False, threshold=threshold, device="meta"
        )
        layer.weight = self._packed(weight)
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias, requires_grad=False)
        found: nn.Module = layer.eval()
        return found

    def _packed(self, weight: Tensor) -> Any:
        # bitsandbytes would keep the scales in the layer that it is told
        arguments = {key: value for key, value in vars(self.empty.weight).items() if key not in {"SCB", "module"}}
        return type(self.empty.weight)(weight, requires_grad=False, **arguments).to("cpu")


def quantised_layers(base: Base, loading: Loading) -> Mapping[str, FewBits]:
    """Return the layers that transformers quantises when it loads a base, by the name of their weight.

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
    return {f"{name}.weight": FewBits(layer) for name, layer in layers.items()}


class _State:
    """The state of an 8-bit layer that has not run yet."""

    SCB = None
