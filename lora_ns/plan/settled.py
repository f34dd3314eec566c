"""A recipe that has met its base and its machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.recipe import Recipe


@dataclass(frozen=True)
class Settled:
    """What is trained, beside what was asked for: nothing is left open that the base or the machine decides."""

    asked: LoadedRecipe
    recipe: Recipe
    notes: tuple[str, ...] = ()
    """What the base adds to the notes on the recipe."""
    strategy_why: str = ""
    """Why the strategy is this one, if the recipe leaves it open."""

    @property
    def folder(self) -> Path:
        """Where the recipe is."""
        return self.asked.folder

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from, as far as it was asked for."""
        return self.asked.origin(key)
