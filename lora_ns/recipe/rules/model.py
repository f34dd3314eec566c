"""Rules of `[model]`."""

from __future__ import annotations

import re

from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Conflict

COMMIT = re.compile(r"[0-9a-f]{40}")


def remote_code_is_pinned(recipe: Recipe) -> Conflict | None:
    """Code from the hub only at a commit that was looked at."""
    if recipe.model.trust_remote_code and not COMMIT.fullmatch(recipe.model.revision):
        return Conflict(
            ("model.trust_remote_code",),
            "code from a repository that can change at any time",
            "pin `revision` to the full commit hash that you have read",
        )
    return None
