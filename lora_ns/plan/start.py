"""The start of a run and the reference of its objective, as the plan shows them."""

from __future__ import annotations

from lora_ns.plan.plan import NEW_ADAPTER, Derived, computed, written_value
from lora_ns.plan.settled import Settled
from lora_ns.recipe.recipe import Recipe


def planned_start(settled: Settled) -> Derived[str]:
    """Return the adapter that training starts from, and the adapters that the base contains."""
    model = settled.recipe.model
    on = f"on the base with {', '.join(model.base_adapters)} merged in" if model.base_adapters else ""
    if model.init_adapter is None:
        return Derived(value=NEW_ADAPTER, origin="recipe" if on else "default", why=on)
    found = written_value(settled, "model.init_adapter", model.init_adapter)
    return found.model_copy(update={"why": ", ".join(filter(None, ("its adapter is trained further", on)))})


def planned_reference(settled: Settled) -> Derived[str]:
    """Return the model that the objective compares with."""
    objective, model = settled.recipe.objective, settled.recipe.model
    if not objective.has_reference:
        return computed("none", f"[{objective.toml}] has no reference")
    once = "; log-probabilities computed once" if objective.refers_once else ""
    if model.init_adapter is None:
        return computed("base", f"the adapter switched off{once}")
    return computed(model.init_adapter, f"a frozen copy of its adapter{once}")


def reference_notes(settled: Settled, rows: int | None, trained: int | None) -> list[str]:
    """Return a note if log-probabilities are computed beforehand in vain.

    Args:
        settled: the recipe.
        rows: number of training rows, if known.
        trained: number of rows that all steps train on, with repetitions, if known.
    """
    objective = settled.recipe.objective
    if not objective.refers_once or not rows or not trained:
        return []
    key = f"`{objective.key('precompute_ref_log_probs')}`"
    if trained <= rows:
        return [f"{key} saves no time: the run trains on {trained:,} of {rows:,} rows, each at most once"]
    return [f"{key}: the reference computes {rows:,} rows instead of {trained:,} in training"]


def base_notes(recipe: Recipe) -> list[str]:
    """Return a note on adapters in the base, without which PEFT cannot use the new one."""
    if not recipe.model.base_adapters:
        return []
    merged = ", ".join(recipe.model.base_adapters)
    return [f"the adapter belongs on the base with {merged} merged in: use it by lorans, or merge it by `lorans merge`"]
