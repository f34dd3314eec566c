"""`[quantization]`: the base in few bits, made so when it is loaded, or read from a base that is stored so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.table import PositiveFloat, Table


class QuantizationMethod(Table):
    """What all share beside `bits`, which of some is a key."""

    packages: ClassVar[tuple[str, ...]] = ()
    """What has to be installed beside what every run needs, by import name."""
    extra: ClassVar[str] = ""
    """The extra of this package that brings them."""
    capability: ClassVar[str] = ""
    """The field of `Capabilities` that says whether a PEFT method trains over such layers."""
    only_stored: ClassVar[bool] = False
    """Whether it takes data to make, so that a base has to be stored so."""


class NoQuantization(QuantizationMethod):
    """The base keeps its own type."""

    bits: ClassVar[int | None] = None

    method: Literal["none"] = "none"
    """No quantisation."""


class Bnb4Bit(QuantizationMethod):
    """QLoRA's base: 4-bit blocks, dequantised in each product (Dettmers et al. 2023, arXiv 2305.14314)."""

    bits: ClassVar[int | None] = 4
    capability: ClassVar[str] = "nf4"

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


class Bnb8Bit(QuantizationMethod):
    """LLM.int8: 8-bit rows with the outlier columns kept apart (Dettmers et al. 2022, arXiv 2208.07339)."""

    bits: ClassVar[int | None] = 8
    capability: ClassVar[str] = "int8"

    method: Literal["bnb-8bit"]
    """8-bit base by bitsandbytes."""
    llm_int8_threshold: PositiveFloat = 6.0
    """Columns with a larger absolute input are computed unquantised."""

    def to_kwargs(self) -> dict[str, Any]:
        """Arguments of `transformers.BitsAndBytesConfig`."""
        return {"load_in_8bit": True, "llm_int8_threshold": self.llm_int8_threshold}


class TorchAo(QuantizationMethod):
    """8-bit weights by torchao, dequantised in each product; needs `pip install 'lora-ns[torchao]'`."""

    bits: ClassVar[int | None] = 8
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    extra: ClassVar[str] = "torchao"
    capability: ClassVar[str] = "torchao"

    method: Literal["torchao"]
    """8-bit base by torchao."""
    quant_type: Literal["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"] = "Int8WeightOnlyConfig"
    """Kind of numbers, by the name of torchao's configuration class."""


class Gptq(QuantizationMethod):
    """A base that is stored by GPTQ (Frantar et al. 2022, arXiv 2210.17323); needs `pip install 'lora-ns[gptq]'`."""

    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    extra: ClassVar[str] = "gptq"
    capability: ClassVar[str] = "gptq"
    only_stored: ClassVar[bool] = True

    method: Literal["gptq"]
    """Base that is stored by GPTQ."""
    bits: Literal[2, 3, 4, 8] = 4
    """Bits of a weight, as the base says."""


class Awq(QuantizationMethod):
    """A base that is stored by AWQ (Lin et al. 2023, arXiv 2306.00978); needs `pip install 'lora-ns[gptq]'`."""

    bits: ClassVar[int | None] = 4
    packages: ClassVar[tuple[str, ...]] = ("gptqmodel", "optimum")
    extra: ClassVar[str] = "gptq"
    capability: ClassVar[str] = "gptq"
    only_stored: ClassVar[bool] = True

    method: Literal["awq"]
    """Base that is stored by AWQ, in 4 bits."""


Quantization = Annotated[
    NoQuantization | Bnb4Bit | Bnb8Bit | TorchAo | Gptq | Awq,
    Field(discriminator="method"),
]


QUANTIZATIONS: Mapping[str, type[QuantizationMethod]] = {
    "none": NoQuantization,
    "bnb-4bit": Bnb4Bit,
    "bnb-8bit": Bnb8Bit,
    "torchao": TorchAo,
    "gptq": Gptq,
    "awq": Awq,
}
"""The tables by their `method`."""
