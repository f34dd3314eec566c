"""`[quantization]`: the base in few bits, made so when it is loaded, or read from a base that is stored so.

One class per quantiser holds its keys and all that is asked of it: what it goes with, what it needs, how a base is
loaded by it, how one that is stored so is read. The union is the registry: a line there is all that a new one needs.
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
"""The tables by their `method`, in the order of the union."""


REFUSED_STORED: Mapping[str, str] = {
    "hqq": "which the installed transformers does not load yet, so that nothing here trains over it",
}
"""What is known of some that bases are stored in, and nothing here trains over."""


__all__ = [
    "QUANTIZATIONS",
    "REFUSED_STORED",
    "NoQuantization",
    "Quantization",
    "Quantizer",
]
