"""Bases that are stored by GPTQ or AWQ, and run by GPT-QModel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.quantizers.base import Quantizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from typing_extensions import Self

_WORD_BITS = 32
"""Bits of the integers that GPTQ and AWQ pack weights into."""


_GROUP = 128
"""Inputs with one scale and zero, as almost all bases are stored."""


_TRAINABLE = "auto_trainable"
"""Backend of GPT-QModel with a backward pass, which its fastest kernels do not have."""


class _Packed(Quantizer):
    """Shared behaviour of both quantisers."""

    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    extra: ClassVar[str] = "gptq"
    capability: ClassVar[str] = "gptq"
    has_norms: ClassVar[bool] = False
    only_stored: ClassVar[bool] = True
    packed_weight: ClassVar[str] = ".qweight"

    @classmethod
    def is_linear(cls, module: torch.nn.Module) -> bool:
        """True for a layer with packed integers."""
        return hasattr(module, "qweight")

    def _grouped_bytes(self, shape: Sequence[int], bits: int) -> int:
        """Bytes of packed integers, with a float16 scale and a packed zero for each group of inputs."""
        outputs, inputs = shape
        groups = math.ceil(inputs / _GROUP)
        return (outputs * inputs * bits + outputs * groups * (16 + bits)) // 8

    @classmethod
    def settle(cls, model: PreTrainedModel, dtype: torch.dtype) -> None:  # noqa: ARG003 -- the layers have their own
        """Keep the layers in training mode.

        On a CPU, the first forward pass without gradients switches them permanently to a kernel without a backward
        pass: after an evaluation, training would continue without an error and learn nothing.
        """
        for module in model.modules():
            if hasattr(module, "linear_mode") and hasattr(module, "qweight"):
                module.linear_mode = "train"


class Gptq(_Packed):
    """A base stored by GPTQ (Frantar et al. 2022, arXiv 2210.17323); needs `pip install 'lora-ns[gptq]'`."""

    quant_method: ClassVar[str] = "gptq"
    packed_beside: ClassVar[tuple[str, ...]] = (".qzeros", ".scales", ".g_idx")

    method: Literal["gptq"]
    """Base stored by GPTQ."""
    bits: Literal[2, 3, 4, 8] = 4
    """Bits per weight, which must match the base."""

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """Packed integers with scales and zeros, and the group of each input."""
        return self._grouped_bytes(shape, self.bits) + 4 * shape[1]

    def stored_settings(self) -> Any:
        """The backend with a backward pass."""
        from transformers import GPTQConfig

        return GPTQConfig(bits=self.bits, backend=_TRAINABLE)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """Read the number of bits."""
        bits = settings.get("bits")
        if settings.get("lm_head"):
            return "including its head, whose weights the loss reads"
        if bits not in {2, 3, 4, 8}:
            return f"in {bits} bits, which transformers does not load"
        return cls(method="gptq", bits=bits)

    @classmethod
    def plain_shape(cls, shape: list[int], bits: int) -> list[int]:
        """GPTQ packs columns of the transposed weight."""
        rows, outputs = shape
        return [outputs, rows * _WORD_BITS // bits]


class Awq(_Packed):
    """A base stored by AWQ (Lin et al. 2023, arXiv 2306.00978); needs `pip install 'lora-ns[gptq]'`."""

    bits: ClassVar[int | None] = 4
    float16_on_gpu: ClassVar[str] = "AWQ's kernels"
    quant_method: ClassVar[str] = "awq"
    packed_beside: ClassVar[tuple[str, ...]] = (".qzeros", ".scales")

    method: Literal["awq"]
    """Base stored by AWQ in 4 bits."""

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """Packed integers with scales and zeros."""
        return self._grouped_bytes(shape, 4)

    def stored_settings(self) -> Any:
        """The backend with a backward pass."""
        from transformers import AwqConfig

        return AwqConfig(bits=self.bits, backend=_TRAINABLE)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """Check for 4 bits and the supported layout."""
        layout, bits = str(settings.get("version") or settings.get("format") or "gemm").lower(), settings.get("bits", 4)
        if layout != "gemm" or bits != 4:
            return f"in {bits} bits and the layout `{layout}`; lorans reads 4 bits in `gemm`"
        return cls(method="awq")

    @classmethod
    def plain_shape(cls, shape: list[int], bits: int) -> list[int]:
        """AWQ packs rows of the transposed weight."""
        inputs, columns = shape
        return [columns * _WORD_BITS // bits, inputs]
