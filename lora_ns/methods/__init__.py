"""`[peft]`: one class per PEFT method. To add a method, add its class.

A class holds the keys of the method with their bounds, its capabilities, the pure translation into arguments of its
PEFT configuration, and the hooks that the rest of lorans calls (see `base.py`). The union below is the registry.
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
    "adaption-prompt": "PEFT's implementation does not run with this version of transformers; use prefix-tuning",
    "cpt": "PEFT's implementation does not run in TRL's trainer; use prompt-tuning",
    "multitask-prompt-tuning": "every row would have to name its task; use prompt-tuning",
    "poly": "every row would have to name its task, and it cannot be merged; use lora",
    "shadow": "PEFT's implementation does not run with this version of transformers; use lora",
    "xlora": "the saved adapter gives other answers than the trained one; use lora",
}
"""PEFT methods that a recipe cannot use, with the reason and the closest method that works."""


REFUSED_STARTS: Mapping[str, str] = {
    "loftq": "PEFT computes it on GPUs only, and ignores the adapter's scale; over a 4-bit base, use `eva`",
}
"""Initialisations of LoRA in PEFT that a recipe cannot use, with the reason and the closest one that works."""


__all__ = ["METHODS", "REFUSED", "REFUSED_STARTS", "Peft", "PeftMethod"]
