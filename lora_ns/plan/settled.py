"""A recipe resolved for its base and machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.recipe import Recipe


@dataclass(frozen=True)
class TeacherSize:
    """The size of a teacher, which is in memory beside the model that learns from it."""

    name: str
    parameters: int


@dataclass(frozen=True)
class Settled:
    """A recipe as written, and as trained, with everything resolved that depends on the base or the machine."""

    loaded: LoadedRecipe
    recipe: Recipe
    notes: tuple[str, ...] = ()
    """Notes on the base, in addition to those on the recipe."""
    strategy_why: str = ""
    """Reason for the strategy, if the recipe leaves it open."""

    teacher: TeacherSize | None = None
    """The teacher, if the objective has one and it is on this machine."""

    @property
    def folder(self) -> Path:
        """The folder of the recipe."""
        return self.loaded.folder

    def origin(self, key: str) -> str:
        """Return the origin of a dotted key's value in the recipe as written."""
        return self.loaded.origin(key)
