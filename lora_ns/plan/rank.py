"""The rank of LoRA that is usual for a task and a base."""

from __future__ import annotations

from dataclasses import replace

from lora_ns.methods import PeftMethod
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import Derived, _written
from lora_ns.plan.rates import USUAL_SCALE, _usual_why
from lora_ns.recipe.load import LoadedRecipe


def _fit_rank(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe, with the rank of LoRA that is usual for its task and base if it leaves that open."""
    if not leaves_rank_open(loaded):
        return loaded
    rank = loaded.recipe.objective.rank_for(facts.hidden_size if facts else None)
    return _with_method(loaded, loaded.recipe.peft.with_rank(rank, USUAL_SCALE * rank))


def leaves_rank_open(loaded: LoadedRecipe) -> bool:
    """Whether a recipe of LoRA says nothing of ranks and scales; who names one of them means it with the other one."""
    keys = loaded.recipe.peft.open_rank_keys
    return bool(keys) and all(loaded.origin(f"peft.{key}") == "default" for key in keys)


def with_rank_of(loaded: LoadedRecipe, other: PeftMethod) -> LoadedRecipe:
    """The recipe, which leaves its rank open, with that of another method of the same kind."""
    peft = loaded.recipe.peft
    return _with_method(loaded, peft.model_copy(update={key: getattr(other, key) for key in peft.open_rank_keys}))


def _with_method(loaded: LoadedRecipe, peft: PeftMethod) -> LoadedRecipe:
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"peft": peft}))


def _rank(loaded: LoadedRecipe, facts: BaseFacts | None) -> Derived[int | None]:
    peft, factors = loaded.recipe.peft, loaded.recipe.peft.factors
    if factors and leaves_rank_open(loaded):
        why = f"{_usual_why(loaded, facts)}; lora_alpha {factors.alpha:g}"
        return Derived(value=factors.rank, origin="default", why=why)
    if peft.rank_key not in type(peft).model_fields:
        return Derived(value=None, origin="computed", why=f"{peft.method} has none")
    return _written(loaded, f"peft.{peft.rank_key}", getattr(peft, peft.rank_key))
