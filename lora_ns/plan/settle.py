"""Resolve a recipe for its base and this machine."""

from __future__ import annotations

from dataclasses import replace

from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.model.published import HasFacts
from lora_ns.model.stored_quantization import fit_quantization
from lora_ns.plan.fit import choose_strategy_that_fits
from lora_ns.plan.rank import usual_method
from lora_ns.plan.room import room_for_rows
from lora_ns.plan.settled import Settled, TeacherSize
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.recipe import Recipe


def settle(
    loaded: LoadedRecipe, machine: Machine, base: HasFacts | None, teacher: TeacherSize | None = None
) -> Settled:
    """Resolve a recipe for its base, its teacher and this machine, including the strategy `auto`.

    Raises:
        ModelError: if lorans cannot train over the base as it is stored.
        RecipeError: if the recipe contradicts how the base is stored.
    """
    facts = base.facts if base else None
    settled = replace(settle_on_base(loaded, facts), teacher=teacher)
    return choose_strategy_that_fits(settled, machine, facts)


def settle_on_base(loaded: LoadedRecipe, facts: BaseFacts | None) -> Settled:
    """Resolve a recipe for its base: quantisation as stored, rows within its positions, and a rank for its width.

    Args:
        loaded: the recipe.
        facts: facts about the base; None if it is not on this machine.

    Raises:
        ModelError: if lorans cannot train over the base as it is stored.
        RecipeError: if the recipe contradicts how the base is stored.
    """
    quantization, notes = fit_quantization(loaded, facts)
    recipe = loaded.recipe.model_copy(update={"quantization": quantization})
    settled = Settled(loaded, recipe, (*(facts.notes if facts else ()), *notes))
    settled = replace(settled, recipe=_with_length(settled, facts))
    peft = usual_method(settled, facts)
    return replace(settled, recipe=settled.recipe.model_copy(update={"peft": peft}))


def _with_length(settled: Settled, facts: BaseFacts | None) -> Recipe:
    """Return the recipe, with a default `max_seq_length` cut to the positions of the base."""
    objective, room = settled.recipe.objective, room_for_rows(settled.recipe, facts)
    is_open = settled.origin(objective.key("max_seq_length")) == "default"
    if not is_open or room is None or not 0 < room < objective.max_seq_length:
        return settled.recipe
    objective = objective.model_copy(update={"max_seq_length": room})
    return settled.recipe.model_copy(update={"objective": objective})
