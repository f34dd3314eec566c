"""The type of a rule between keys of a recipe."""

from __future__ import annotations

from collections.abc import Callable

from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Conflict

Rule = Callable[[Recipe], Conflict | None]
