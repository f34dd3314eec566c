"""Bases in 4 and 8 bits by bitsandbytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.files.safetensors import Tensors
from lora_ns.quantizers.base import DTYPES, Quantizer
from lora_ns.table import PositiveFloat

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from typing_extensions import Self

_STATE = ".quant_state.bitsandbytes__"


_SCALES = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", ".SCB", ".weight_format")


_NEITHER = "neither in 4 nor in 8 bits"


class _BitsAndBytes(Quantizer):
    """What both share."""

    library: ClassVar[str] = "bitsandbytes"
    is_usual: ClassVar[bool] = True
    capability_with_biases: ClassVar[str] = "quantized_biases"
    quant_method: ClassVar[str] = "bitsandbytes"

    @classmethod
    def is_named_by(cls, settings: Mapping[str, Any]) -> bool:
        """Whether they say so, or have bitsandbytes' own keys and no name."""
        is_its_own = settings.get("load_in_4bit") or settings.get("load_in_8bit")
        return bool(settings.get("quant_method", cls.quant_method if is_its_own else None) == cls.quant_method)

    @classmethod
    def plain_tensors(cls, tensors: Tensors, content: Callable[[str], bytes]) -> Tensors:
        """Without the scales, and of 4-bit weights with the shape and type that stand beside them."""
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
    """QLoRA's base: 4-bit blocks, dequantised in each product (Dettmers et al. 2023, arXiv 2305.14314)."""

    bits: ClassVar[int | None] = 4
    capability: ClassVar[str] = "nf4"
    can_be_divided: ClassVar[bool] = True

    method: Literal["bnb-4bit"]
    """4-bit base by bitsandbytes."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Code book: `nf4` fits weights that are normally distributed, `fp4` is a plain 4-bit float."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the block scales as well: saves about 0.4 bit a parameter."""

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:
        """Computed in the run's type; numbers of the type of all else can be divided with it."""
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
        """The code book and whether the scales are quantised; absent ones have bitsandbytes' defaults."""
        if not settings.get("load_in_4bit"):
            return _NEITHER
        return cls(
            method="bnb-4bit",
            bnb_4bit_quant_type=settings.get("bnb_4bit_quant_type", "fp4"),
            bnb_4bit_use_double_quant=settings.get("bnb_4bit_use_double_quant", False),
        )

    @classmethod
    def settle(cls, model: PreTrainedModel, dtype: torch.dtype) -> None:
        """Have 4-bit layers compute in the run's type, and do not repack them on processors with AVX512-BF16.

        A base that is stored in 4 bits has the type of whoever wrote it in its settings.
        The first forward pass without gradients repacks the weights in place for a product that has no backward pass:
        after an evaluation, training would go on with wrong or missing gradients, and without an error.
        """
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":
                module.compute_dtype = dtype
                module.support_avx512bf16_for_cpu = False


class Bnb8Bit(_BitsAndBytes):
    """LLM.int8: 8-bit rows with the outlier columns kept apart (Dettmers et al. 2022, arXiv 2208.07339)."""

    bits: ClassVar[int | None] = 8
    capability: ClassVar[str] = "int8"

    method: Literal["bnb-8bit"]
    """8-bit base by bitsandbytes."""
    llm_int8_threshold: PositiveFloat = 6.0
    """Columns with a larger absolute input are computed unquantised."""

    def settings(self, whole: Sequence[str], dtype: torch.dtype, divided: bool) -> Any:  # noqa: ARG002 -- it has a type
        """The threshold."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=self.llm_int8_threshold, llm_int8_skip_modules=list(whole)
        )

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self | str:
        """The threshold."""
        if not settings.get("load_in_8bit"):
            return _NEITHER
        return cls(method="bnb-8bit", llm_int8_threshold=settings.get("llm_int8_threshold", 6.0))
