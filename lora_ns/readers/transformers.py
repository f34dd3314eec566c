"""transformers: `model.load_adapter`, and pipelines that find an adapter beside a model."""

from __future__ import annotations

from typing import ClassVar

from lora_ns.readers.adapter import PROMPTS
from lora_ns.readers.peft import Peft

SHARED = frozenset({"FROD", "PVERA", "TINYLORA", "UNILORA", "VBLORA", "VERA"})
"""Types whose layers share tensors, which are not part of any layer."""


class Transformers(Peft):
    """transformers 5.23, which loads adapters by PEFT into the model itself.

    Source: `transformers/integrations/peft.py` and PEFT's `inject_adapter_in_model`, which refuses prompts and types
    with shared tensors.
    """

    name: ClassVar[str] = "transformers"
    title: ClassVar[str] = "transformers"
    described: ClassVar[str] = "5.23, with PEFT 0.21"
    types: ClassVar[frozenset[str]] = Peft.types - PROMPTS - SHARED - {"ADAPTION_PROMPT", "SHADOW"}
    needs_prefix: ClassVar[bool] = False
    takes_adapter_name: ClassVar[bool] = False

    def refusal(self, kind: str) -> tuple[str, str]:
        """Write why a type is refused, and what to do."""
        if kind in Peft.types:
            return f"`load_adapter` does not take the type {kind}", "load it with PEFT: `PeftModel.from_pretrained`"
        return super().refusal(kind)
