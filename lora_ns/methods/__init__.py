"""`[peft]`: one class per method, and that class is all there is to add for a new one.

A class holds the method's keys with their bounds, what it can be combined with, the pure translation into the arguments
of its PEFT configuration, and its answers to what the rest of lorans asks of a method (see `base.py`). The union at the
end is the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field

from lora_ns.methods.adalora import AdaLora
from lora_ns.methods.base import PeftMethod
from lora_ns.methods.lora import Lora
from lora_ns.methods.low_rank import Deft, DeLora, Glora, GraLora, HiRa, Lily, LoHa, LoKr, Miss, Osf, Peanut
from lora_ns.methods.orthogonal import Boft, Hra, Oft, Psoft, Road
from lora_ns.methods.parts import Beft, Ia3, LnTuning, Shira, SuperTuning, TrainableTokens
from lora_ns.methods.prompts import Cartridge, PrefixTuning, PromptTuning, PTuning
from lora_ns.methods.shared import Adamss, Frod, Pvera, RandLora, TinyLora, UniLora, VbLora, Vera
from lora_ns.methods.spectral import C3a, FourierFt, WaveFt

Peft = Annotated[
    Lora
    | AdaLora
    | LoHa
    | LoKr
    | HiRa
    | GraLora
    | DeLora
    | Miss
    | Lily
    | Peanut
    | Glora
    | Deft
    | Osf
    | Vera
    | Pvera
    | RandLora
    | VbLora
    | UniLora
    | TinyLora
    | Frod
    | Adamss
    | Oft
    | Boft
    | Hra
    | Psoft
    | Road
    | FourierFt
    | WaveFt
    | C3a
    | Ia3
    | LnTuning
    | Shira
    | SuperTuning
    | Beft
    | TrainableTokens
    | PrefixTuning
    | PromptTuning
    | PTuning
    | Cartridge,
    Field(discriminator="method"),
]


METHODS: dict[str, type[PeftMethod]] = {method.tag(): method for method in get_args(get_args(Peft)[0])}
"""Method name to class, in the order of the union."""


REFUSED: Mapping[str, str] = {
    "adaption-prompt": "PEFT's code for it does not run with this transformers; prefix-tuning is the nearest",
    "cpt": "PEFT's code for it does not run in TRL's trainer; prompt-tuning is the nearest",
    "multitask-prompt-tuning": "rows would have to name their task; prompt-tuning is the nearest",
    "poly": "rows would have to name their task, and it cannot be merged; lora is the nearest",
    "shadow": "PEFT's code for it does not run with this transformers; lora is the nearest",
    "xlora": "what is saved gives other answers than what was trained; lora is the nearest",
}
"""What PEFT has and a recipe cannot name, with the reason and the nearest method that works."""


REFUSED_STARTS: Mapping[str, str] = {
    "loftq": "PEFT computes it on a GPU alone, and without the adapter's scale; `eva` starts over a base in 4 bits",
}
"""Starts of LoRA that PEFT has and a recipe cannot name, with the reason and the nearest one that works."""


__all__ = ["METHODS", "REFUSED", "REFUSED_STARTS", "Peft", "PeftMethod"]
