"""What a rule between keys of a recipe finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_ns.recipe.recipe import Recipe


@dataclass(frozen=True)
class Finding:
    """A rule that is broken: the keys that clash (the last is the one to point at), what is wrong, what to write."""

    keys: tuple[str, ...]
    what: str
    remedy: str


Rule = Callable[[Recipe], Finding | None]
