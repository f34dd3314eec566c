"""Whether a recipe itself gives a key."""

from __future__ import annotations

from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Table


def is_written(recipe: Recipe, key: str) -> bool:
    """Whether the recipe itself gives this dotted key, rather than leaving it to its default."""
    table: object = recipe
    for name in key.split("."):
        if not isinstance(table, Table) or name not in table.model_fields_set:
            return False
        table = getattr(table, name)
    return True
