"""The rank of LoRA that is usual for a task and a base."""

from __future__ import annotations

from dataclasses import replace

from lora_ns.methods import Lora
from lora_ns.model.files import BaseFacts
from lora_ns.plan.plan import Derived, _written
from lora_ns.plan.rates import USUAL_SCALE, _usual_why
from lora_ns.recipe.load import LoadedRecipe


def _fit_rank(loaded: LoadedRecipe, facts: BaseFacts | None) -> LoadedRecipe:
    """The recipe, with the rank of LoRA that is usual for its task and base if it leaves that open."""
    if not leaves_rank_open(loaded):
        return loaded
    rank = loaded.recipe.objective.rank_for(facts.hidden_size if facts else None)
    return with_rank(loaded, rank, USUAL_SCALE * rank)


def leaves_rank_open(loaded: LoadedRecipe) -> bool:
    """Whether a recipe of LoRA says nothing of ranks and scales; who names one of them means it with the other one."""
    peft = loaded.recipe.peft
    if not isinstance(peft, Lora) or peft.rank_pattern or peft.alpha_pattern:
        return False
    return all(loaded.origin(f"peft.{key}") == "default" for key in ("lora_r", "lora_alpha"))


def with_rank(loaded: LoadedRecipe, rank: int, alpha: float) -> LoadedRecipe:
    """The recipe with another rank and scale of LoRA."""
    peft = loaded.recipe.peft.model_copy(update={"lora_r": rank, "lora_alpha": alpha})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"peft": peft}))


def _rank(loaded: LoadedRecipe, facts: BaseFacts | None) -> Derived[int | None]:
    peft = loaded.recipe.peft
    if isinstance(peft, Lora) and leaves_rank_open(loaded):
        why = f"{_usual_why(loaded, facts)}; lora_alpha {peft.lora_alpha:g}"
        return Derived(value=peft.lora_r, origin="default", why=why)
    key = next((key for key in _RANKS if key in type(peft).model_fields), None)
    if key is None:
        return Derived(value=None, origin="computed", why=f"{peft.method} has none")
    return _written(loaded, f"peft.{key}", getattr(peft, key))


_RANKS = ("lora_r", "init_r", "r")
"""What methods call their rank."""
