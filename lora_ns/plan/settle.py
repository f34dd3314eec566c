"""The recipe as it meets its base."""

from __future__ import annotations

from dataclasses import replace

from lora_ns.model.files import BaseFacts
from lora_ns.model.stored_quantization import fit_quantization
from lora_ns.plan.plan import _virtual_tokens
from lora_ns.plan.rank import _fit_rank
from lora_ns.recipe.load import LoadedRecipe


def fit_to_base(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe as it meets its base: as it is stored, with rows no longer than it reads, and a rank for its width.

    Raises:
        ModelError: if nothing here trains over the base as it is stored.
        RecipeError: if the recipe does not go with how it is stored.
    """
    if facts:
        told = (note for note in facts.notes if note not in loaded.notes)
        loaded = replace(loaded, notes=(*loaded.notes, *told))
    return _fit_rank(_fit_length(fit_quantization(loaded, facts), facts), facts)


def _fit_length(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe, its `max_seq_length` cut to what the base has positions for if the recipe does not name one."""
    objective, room = loaded.recipe.objective, room_for_rows(loaded, facts)
    is_open = loaded.origin(objective.key("max_seq_length")) == "default"
    if not is_open or room is None or not 0 < room < objective.max_seq_length:
        return loaded
    objective = objective.model_copy(update={"max_seq_length": room})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"objective": objective}))


def room_for_rows(loaded: LoadedRecipe, facts: BaseFacts | None) -> int | None:
    """Positions that the base has for a row, less the method's own; None if it does not say."""
    if facts is None or facts.max_position_embeddings is None:
        return None
    return facts.max_position_embeddings - _position_offset(facts) - _virtual_tokens(loaded)


def _position_offset(facts: BaseFacts) -> int:
    """RoBERTa's positions begin after the padding index."""
    return 2 if "roberta" in facts.model_type else 0
