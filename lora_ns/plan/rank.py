"""Default ranks of LoRA, by task and base."""

from __future__ import annotations

from lora_ns.methods import PeftMethod
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import Derived, computed, written_value
from lora_ns.plan.rates import USUAL_SCALE, usual_why
from lora_ns.plan.settled import Settled


def usual_method(settled: Settled, facts: BaseFacts | None) -> PeftMethod:
    """Return the method, with the usual rank for the task and the base if the recipe leaves the rank open."""
    if not leaves_rank_open(settled):
        return settled.recipe.peft
    rank = settled.recipe.objective.rank_for(facts.hidden_size if facts else None)
    return settled.recipe.peft.with_rank(rank, USUAL_SCALE * rank)


def leaves_rank_open(settled: Settled) -> bool:
    """Return whether a LoRA recipe sets neither ranks nor scales. If it sets one, the other keeps its fixed default."""
    keys = settled.recipe.peft.open_rank_keys
    return bool(keys) and all(settled.origin(f"peft.{key}") == "default" for key in keys)


def with_rank_of(peft: PeftMethod, other: PeftMethod) -> PeftMethod:
    """Return the method, whose rank the recipe leaves open, with the rank of another one of the same kind."""
    return peft.model_copy(update={key: getattr(other, key) for key in peft.open_rank_keys})


def planned_rank(settled: Settled, facts: BaseFacts | None) -> Derived[int | None]:
    """Return the rank of the method with its origin, None for methods without a rank."""
    peft, factors = settled.recipe.peft, settled.recipe.peft.factors
    if factors and leaves_rank_open(settled):
        why = f"{usual_why(settled.recipe, facts)}; lora_alpha {factors.alpha:g}"
        return Derived(value=factors.rank, origin="default", why=why)
    if peft.rank_key not in type(peft).model_fields:
        return computed(None, f"{peft.method} has no rank")
    return written_value(settled, f"peft.{peft.rank_key}", getattr(peft, peft.rank_key))
