"""Maximum length of a row for its base."""

from __future__ import annotations

from lora_ns.model.files import BaseFacts
from lora_ns.recipe.recipe import Recipe


def room_for_rows(recipe: Recipe, facts: BaseFacts | None) -> int | None:
    """Return the positions of the base minus the method's virtual tokens, None if unknown."""
    if facts is None or facts.max_position_embeddings is None:
        return None
    return facts.max_position_embeddings - position_offset(facts) - recipe.peft.virtual_length


def position_offset(facts: BaseFacts) -> int:
    """Return the number of unused positions: those of RoBERTa start after the padding index."""
    return 2 if "roberta" in facts.model_type else 0
