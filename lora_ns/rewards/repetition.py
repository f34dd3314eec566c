"""`repetition`: the share of word sequences that the completion does not repeat."""

from __future__ import annotations

from typing import Literal

from lora_ns.rewards.base import Completion, RewardFunction
from lora_ns.table import PositiveInt


class Repetition(RewardFunction):
    """Number of different n-grams of words, as a share of all of them: 1 without repetitions, near 0 for a loop.

    Lower is worse, so a positive weight punishes repetitions, as does TRL's repetition penalty.
    """

    name: Literal["repetition"] = "repetition"
    ngram_size: PositiveInt = 3
    """Words of an n-gram."""

    def score(self, given: Completion) -> float:
        """Between 0 and 1; 1 for a completion that is too short to repeat anything."""
        words = given.text.casefold().split()
        size = self.ngram_size
        grams = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0
