"""`[quantization]`: the base in 4 or 8 bits by bitsandbytes; read from a base that is stored so."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.recipe.base import PositiveFloat, Table


class NoQuantization(Table):
    """The base keeps its own type."""

    bits: ClassVar[int | None] = None

    method: Literal["none"] = "none"
    """No quantisation."""


class Bnb4Bit(Table):
    """QLoRA's base: 4-bit blocks, dequantised in each product (Dettmers et al. 2023, arXiv 2305.14314)."""

    bits: ClassVar[int | None] = 4

    method: Literal["bnb-4bit"]
    """4-bit base by bitsandbytes."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Code book: `nf4` fits weights that are normally distributed, `fp4` is a plain 4-bit float."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the block scales as well: saves about 0.4 bit a parameter."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `transformers.BitsAndBytesConfig`; the compute dtype comes from the plan."""
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": self.bnb_4bit_quant_type,
            "bnb_4bit_use_double_quant": self.bnb_4bit_use_double_quant,
        }


class Bnb8Bit(Table):
    """LLM.int8: 8-bit rows with the outlier columns kept apart (Dettmers et al. 2022, arXiv 2208.07339)."""

    bits: ClassVar[int | None] = 8

    method: Literal["bnb-8bit"]
    """8-bit base by bitsandbytes."""
    llm_int8_threshold: PositiveFloat = 6.0
    """Columns with a larger absolute input are computed unquantised."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `transformers.BitsAndBytesConfig`."""
        return {"load_in_8bit": True, "llm_int8_threshold": self.llm_int8_threshold}


Quantization = Annotated[NoQuantization | Bnb4Bit | Bnb8Bit, Field(discriminator="method")]
