"""How long a row may be for its base."""

from __future__ import annotations

from lora_ns.model.files import BaseFacts
from lora_ns.recipe.recipe import Recipe


def room_for_rows(recipe: Recipe, facts: BaseFacts | None) -> int | None:
    """Positions that the base has for a row, less the method's own; None if it does not say."""
    if facts is None or facts.max_position_embeddings is None:
        return None
    return facts.max_position_embeddings - position_offset(facts) - recipe.peft.virtual_length


def position_offset(facts: BaseFacts) -> int:
    """Positions before the first: RoBERTa's begin after the padding index."""
    return 2 if "roberta" in facts.model_type else 0
