"""`length`: the completion has an allowed number of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lora_ns.rewards.base import Completion, RewardFunction
from lora_ns.table import Conflict, NonNegativeInt, PositiveInt


class Length(RewardFunction):
    """1 if the number of tokens is within the bounds, falling to 0 over `slack` tokens outside of them.

    With a negative weight this is the soft overlong punishment of DAPO (arXiv 2503.14476) with the sign turned.
    """

    name: Literal["length"] = "length"
    min_tokens: NonNegativeInt = 0
    """Fewest tokens."""
    max_tokens: PositiveInt | None = None
    """Most tokens, the stop token included."""
    slack: NonNegativeInt = 0
    """Tokens outside the bounds over which the score falls to 0."""

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """Bounds that allow everything or nothing."""
        if not self.min_tokens and self.max_tokens is None:
            yield Conflict((key,), "`length` has no bounds", "write `min_tokens`, `max_tokens` or both")
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            keys = (f"{key}.min_tokens", f"{key}.max_tokens")
            yield Conflict(keys, f"no length is from {self.min_tokens} to {self.max_tokens}", "swap them")

    def score(self, given: Completion) -> float:
        """Between 0 and 1."""
        length = len(given.ids)
        over = max(self.min_tokens - length, 0 if self.max_tokens is None else length - self.max_tokens, 0)
        return max(0.0, 1.0 - over / (self.slack + 1)) if over else 1.0
