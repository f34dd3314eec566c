"""Bases that are stored by GPTQ or AWQ, whose layers GPT-QModel computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.quantizers.base import Quantizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from typing_extensions import Self

_WORD_BITS = 32
"""Both pack weights into 32-bit integers."""


_TRAINABLE = "auto_trainable"
"""The fastest kernels of GPT-QModel pass no gradient back."""


class _Packed(Quantizer):
    """What both share."""

    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    extra: ClassVar[str] = "gptq"
    capability: ClassVar[str] = "gptq"
    has_norms: ClassVar[bool] = False
    only_stored: ClassVar[bool] = True
    packed_weight: ClassVar[str] = ".qweight"

    @classmethod
    def is_linear(cls, module: torch.nn.Module) -> bool:
        """Whether it has the integers that both pack weights into."""
        return hasattr(module, "qweight")

    @classmethod
    def settle(cls, model: PreTrainedModel, dtype: torch.dtype) -> None:  # noqa: ARG003 -- the layers have their own
        """Have the layers always compute as in training.

        On a CPU, the first forward pass without gradients changes them for good to a product that passes none back:
        after an evaluation, training would go on without an error and learn nothing.
        """
        for module in model.modules():
            if hasattr(module, "linear_mode") and hasattr(module, "qweight"):
                module.linear_mode = "train"


class Gptq(_Packed):
    """A base that is stored by GPTQ (Frantar et al. 2022, arXiv 2210.17323); needs `pip install 'lora-ns[gptq]'`."""

    quant_method: ClassVar[str] = "gptq"
    packed_beside: ClassVar[tuple[str, ...]] = (".qzeros", ".scales", ".g_idx")

    method: Literal["gptq"]
    """Base that is stored by GPTQ."""
    bits: Literal[2, 3, 4, 8] = 4
    """Bits of a weight, as the base says."""

    def stored_settings(self) -> Any:
        """The kernels that train."""
        from transformers import GPTQConfig

        return GPTQConfig(bits=self.bits, backend=_TRAINABLE)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """The number of bits."""
        bits = settings.get("bits")
        if settings.get("lm_head"):
            return "its head with it, whose own weights the loss reads"
        if bits not in {2, 3, 4, 8}:
            return f"in {bits} bits, which transformers does not load"
        return cls(method="gptq", bits=bits)

    @classmethod
    def plain_shape(cls, shape: list[int], bits: int) -> list[int]:
        """GPTQ packs columns of the transposed weight."""
        rows, outputs = shape
        return [outputs, rows * _WORD_BITS // bits]


class Awq(_Packed):
    """A base that is stored by AWQ (Lin et al. 2023, arXiv 2306.00978); needs `pip install 'lora-ns[gptq]'`."""

    bits: ClassVar[int | None] = 4
    float16_on_gpu: ClassVar[str] = "AWQ's kernels"
    quant_method: ClassVar[str] = "awq"
    packed_beside: ClassVar[tuple[str, ...]] = (".qzeros", ".scales")

    method: Literal["awq"]
    """Base that is stored by AWQ, in 4 bits."""

    def stored_settings(self) -> Any:
        """The kernels that train."""
        from transformers import AwqConfig

        return AwqConfig(bits=self.bits, backend=_TRAINABLE)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """Nothing more, if it is in 4 bits and the layout that is read here."""
        layout, bits = str(settings.get("version") or settings.get("format") or "gemm").lower(), settings.get("bits", 4)
        if layout != "gemm" or bits != 4:
            return f"in {bits} bits and the layout `{layout}`, of which 4 bits in `gemm` are read here"
        return cls(method="awq")

    @classmethod
    def plain_shape(cls, shape: list[int], bits: int) -> list[int]:
        """AWQ packs rows of the transposed weight."""
        inputs, columns = shape
        return [columns * _WORD_BITS // bits, inputs]
