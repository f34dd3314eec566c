"""Distinguish keys written in a recipe from defaults."""

from __future__ import annotations

from lora_ns.objectives import OBJECTIVE_TABLES
from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Table


def is_written(recipe: Recipe, key: str) -> bool:
    """Return whether the recipe sets this dotted key, even to its default."""
    names = key.split(".")
    table: object = recipe
    if names[0] in OBJECTIVE_TABLES:
        if recipe.objective.toml != names[0]:
            return False
        table, names = recipe.objective, names[1:]
    for name in names:
        if not isinstance(table, Table) or name not in table.model_fields_set:
            return False
        table = getattr(table, name)
    return True
