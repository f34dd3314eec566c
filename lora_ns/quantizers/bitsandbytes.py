"""4-bit and 8-bit bases of bitsandbytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.files.safetensors import Tensors
from lora_ns.quantizers.base import DTYPES, Quantizer, bytes_of_rows
from lora_ns.table import PositiveFloat

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from typing_extensions import Self

_STATE = ".quant_state.bitsandbytes__"


_SCALES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")


_BLOCK, _SCALE_BLOCK = 64, 256
"""Entries with one scale, and scales with one scale."""


_NEITHER = "neither in 4 nor in 8 bits"


class _BitsAndBytes(Quantizer):
    """Shared behaviour of both quantisers."""

    library: ClassVar[str] = "bitsandbytes"
    is_usual: ClassVar[bool] = True
    capability_with_biases: ClassVar[str] = "quantized_biases"
    leaves: ClassVar[frozenset[str]] = frozenset({"subclasses"})
    quant_method: ClassVar[str] = "bitsandbytes"

    @classmethod
    def is_named_by(cls, settings: Mapping[str, Any]) -> bool:
        """True if the settings name bitsandbytes, or have its keys without a name."""
        is_its_own = settings.get("load_in_4bit") or settings.get("load_in_8bit")
        return bool(settings.get("quant_method", cls.quant_method if is_its_own else None) == cls.quant_method)

    @classmethod
    def plain_tensors(cls, tensors: Tensors, content: Callable[[str], bytes]) -> Tensors:
        """The tensors without scales; 4-bit weights have the shape and dtype that the file describes."""
        plain = {name: entry for name, entry in tensors.items() if _STATE not in name and not name.endswith(_SCALES)}
        for name in (name for name in tensors if _STATE in name):
            weight = name.partition(_STATE)[0]
            try:
                state = json.loads(content(name))
                shape, dtype = [int(side) for side in state["shape"]], DTYPES.get(state["dtype"])
                plain[weight] = {**plain[weight], "shape": shape, "dtype": dtype or plain[weight]["dtype"]}
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(f"`{name}` does not describe a quantised weight: {error}") from None
        return plain


class Bnb4Bit(_BitsAndBytes):
    """QLoRA: 4-bit blocks, dequantised in each matrix product (Dettmers et al. 2023, arXiv 2305.14314)."""

    bits: ClassVar[int | None] = 4
    capability: ClassVar[str] = "nf4"
    can_be_divided: ClassVar[bool] = True

    method: Literal["bnb-4bit"]
    """4-bit base of bitsandbytes."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Data type: `nf4` for normally distributed weights, or `fp4`, a plain 4-bit float."""
    bnb_4bit_use_double_quant: bool = True
    """Also quantise the block scales, which saves about 0.4 bits per parameter."""

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """Two numbers to a byte, a scale for each block, and the 16 values of the data type.

        The scales are float32, or a byte each with a float32 for each 256 of them, their mean and the 256 values of the
        bytes.
        """
        entries = math.prod(shape)
        blocks = math.ceil(entries / _BLOCK)
        nested = blocks + 4 * (math.ceil(blocks / _SCALE_BLOCK) + 1 + 256)
        scales = nested if self.bnb_4bit_use_double_quant else 4 * blocks
        return math.ceil(entries / 2) + scales + 4 * 16

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:
        """Settings that compute in the run's dtype. Sharded weights are also stored in it, like all others."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=self.bnb_4bit_use_double_quant,
            bnb_4bit_compute_dtype=dtype,
            **({"bnb_4bit_quant_storage": dtype} if divided else {}),
            llm_int8_skip_modules=list(whole),
        )

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """Read data type and double quantisation, with bitsandbytes' defaults for absent keys."""
        if not settings.get("load_in_4bit"):
            return _NEITHER
        return cls(
            method="bnb-4bit",
            bnb_4bit_quant_type=settings.get("bnb_4bit_quant_type", "fp4"),
            bnb_4bit_use_double_quant=settings.get("bnb_4bit_use_double_quant", False),
        )

    @classmethod
    def settle(cls, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """Make 4-bit layers compute in the run's dtype, and disable their repacking on CPUs with AVX512-BF16.

        A base that is stored in 4 bits brings the dtype of its author. On such CPUs, the first forward pass without
        gradients repacks the weights in place for a kernel that has no backward pass: after an evaluation, training
        would continue with wrong or missing gradients, without an error.
        """
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":
                module.compute_dtype = dtype
                module.support_avx512bf16_for_cpu = False


class Bnb8Bit(_BitsAndBytes):
    """LLM.int8: 8-bit rows with separate outlier columns (Dettmers et al. 2022, arXiv 2208.07339)."""

    bits: ClassVar[int | None] = 8
    capability: ClassVar[str] = "int8"
    rounds_inputs: ClassVar[bool] = True

    method: Literal["bnb-8bit"]
    """8-bit base of bitsandbytes."""
    llm_int8_threshold: PositiveFloat = 6.0
    """Absolute input value above which a column is computed unquantised."""

    def packed_bytes(self, shape: Sequence[int]) -> int:
        """A byte for each entry, and a float32 for each output."""
        return bytes_of_rows(shape)

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:  # noqa: ARG002 -- dtype is fixed
        """Settings with the threshold."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=self.llm_int8_threshold, llm_int8_skip_modules=list(whole)
        )

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """Read the threshold."""
        if not settings.get("load_in_8bit"):
            return _NEITHER
        return cls(method="bnb-8bit", llm_int8_threshold=settings.get("llm_int8_threshold", 6.0))
