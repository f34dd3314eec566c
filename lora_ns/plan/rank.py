"""The rank of LoRA that is usual for a task and a base."""

from __future__ import annotations

from lora_ns.methods import PeftMethod
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import Derived, computed, written_value
from lora_ns.plan.rates import USUAL_SCALE, usual_why
from lora_ns.plan.settled import Settled


def usual_method(settled: Settled, facts: BaseFacts | None) -> PeftMethod:
    """The method, with the rank of LoRA that is usual for the task and the base if the recipe leaves that open."""
    if not leaves_rank_open(settled):
        return settled.recipe.peft
    rank = settled.recipe.objective.rank_for(facts.hidden_size if facts else None)
    return settled.recipe.peft.with_rank(rank, USUAL_SCALE * rank)


def leaves_rank_open(settled: Settled) -> bool:
    """Whether a recipe of LoRA says nothing of ranks and scales; who names one of them means it with the other one."""
    keys = settled.recipe.peft.open_rank_keys
    return bool(keys) and all(settled.origin(f"peft.{key}") == "default" for key in keys)


def with_rank_of(peft: PeftMethod, other: PeftMethod) -> PeftMethod:
    """The method, whose rank the recipe leaves open, with that of another one of the same kind."""
    return peft.model_copy(update={key: getattr(other, key) for key in peft.open_rank_keys})


def planned_rank(settled: Settled, facts: BaseFacts | None) -> Derived[int | None]:
    """The rank of the method, with where it came from; None for methods without one."""
    peft, factors = settled.recipe.peft, settled.recipe.peft.factors
    if factors and leaves_rank_open(settled):
        why = f"{usual_why(settled.recipe, facts)}; lora_alpha {factors.alpha:g}"
        return Derived(value=factors.rank, origin="default", why=why)
    if peft.rank_key not in type(peft).model_fields:
        return computed(None, f"{peft.method} has none")
    return written_value(settled, f"peft.{peft.rank_key}", getattr(peft, peft.rank_key))
