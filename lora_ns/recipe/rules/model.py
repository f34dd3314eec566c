"""Rules of `[model]`."""

from __future__ import annotations

import re

from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Conflict

COMMIT = re.compile(r"[0-9a-f]{40}")


def remote_code_is_pinned(recipe: Recipe) -> Conflict | None:
    """Code from the hub needs a pinned commit."""
    if recipe.model.trust_remote_code and not COMMIT.fullmatch(recipe.model.revision):
        return Conflict(
            ("model.trust_remote_code",),
            "the repository's code can change at any time",
            "pin `revision` to the full hash of a commit that you have reviewed",
        )
    return None
