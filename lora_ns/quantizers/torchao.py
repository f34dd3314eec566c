"""8-bit bases of torchao."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.quantizers.base import Quantizer, bytes_of_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from typing_extensions import Self


class TorchAo(Quantizer):
    """8-bit weights of torchao, dequantised in each matrix product; needs `pip install 'lora-ns[torchao]'`."""

    bits: ClassVar[int | None] = 8
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    extra: ClassVar[str] = "torchao"
    capability: ClassVar[str] = "torchao"
    leaves: ClassVar[frozenset[str]] = frozenset({"Conv1D"})
    quant_method: ClassVar[str] = "torchao"
    packed_weight: ClassVar[str] = "._weight_qdata"
    packed_beside: ClassVar[tuple[str, ...]] = ("._weight_scale", "._weight_zero_point")

    method: Literal["torchao"]
    """8-bit base of torchao."""
    quant_type: Literal["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"] = "Int8WeightOnlyConfig"
    """Data type, by the name of torchao's configuration class."""

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:  # noqa: ARG002 -- the inputs have one
        """Settings with the data type."""
        import torchao.quantization
        from transformers import TorchAoConfig

        kind = getattr(torchao.quantization, self.quant_type)
        return TorchAoConfig(kind(), modules_to_not_convert=list(whole))

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """A byte for each entry, and a float32 for each output."""
        return bytes_of_rows(shape)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """Read the data type."""
        kinds = settings.get("quant_type")
        kind = kinds.get("default", {}).get("_type") if isinstance(kinds, dict) else kinds
        if settings.get("include_input_output_embeddings"):
            return "including its embeddings, over which lorans does not train"
        if kind == "Int8WeightOnlyConfig" or kind == "Float8WeightOnlyConfig":  # noqa: PLR1714 -- mypy narrows these
            return cls(method="torchao", quant_type=kind)
        if "DynamicActivation" in str(kind):
            return f"as {kind}, whose layers have no backward pass"
        return f"as {kind}, over which PEFT does not train"

    def in_full(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with dequantised weights in float32. transformers' `dequantize` does not support torchao."""
        import torch
        from torchao.utils import TorchAOBaseTensor

        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, TorchAOBaseTensor):
                module.weight = torch.nn.Parameter(weight.dequantize().float(), requires_grad=False)
        return model
