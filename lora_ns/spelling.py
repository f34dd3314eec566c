"""Names that were probably meant, for messages about names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 80
"""Characters of a name that is compared; a longer one is no slip of the pen, and takes long to compare."""


def close_to(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Known names that are spelt nearly like this one, the nearest first; none for a name of more than `LONGEST`."""
    if len(name) > LONGEST:
        return []
    return difflib.get_close_matches(name, [other for other in known if len(other) <= LONGEST], n=most, cutoff=cutoff)
