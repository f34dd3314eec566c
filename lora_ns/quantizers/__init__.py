"""`[quantization]`: a base quantised when it is loaded, or stored quantised.

One class per quantiser holds its keys, capabilities and packages, the settings to load a base with, and the reading of
stored bases. The union is the registry: a new quantiser needs its class and a line there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field

from lora_ns.quantizers.base import NoQuantization, Quantizer
from lora_ns.quantizers.bitsandbytes import Bnb4Bit, Bnb8Bit
from lora_ns.quantizers.gptqmodel import Awq, Gptq
from lora_ns.quantizers.torchao import TorchAo

Quantization = Annotated[
    NoQuantization | Bnb4Bit | Bnb8Bit | TorchAo | Gptq | Awq,
    Field(discriminator="method"),
]


QUANTIZATIONS: Mapping[str, type[Quantization]] = {
    get_args(kind.model_fields["method"].annotation)[0]: kind for kind in get_args(get_args(Quantization)[0])
}
"""Tables by `method`, in the order of the union."""


REFUSED_STORED: Mapping[str, str] = {
    "hqq": "which the installed transformers does not load yet",
}
"""Reasons why lorans does not train over bases that are stored by some other quantisers."""


__all__ = [
    "QUANTIZATIONS",
    "REFUSED_STORED",
    "NoQuantization",
    "Quantization",
    "Quantizer",
]
