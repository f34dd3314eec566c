"""`regex`: the completion matches a pattern."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from lora_ns.rewards.base import Completion, RewardFunction
from lora_ns.safety.deadline import bounded
from lora_ns.table import Conflict, Text


class Regex(RewardFunction):
    """1 if the pattern is found in the completion; else 0."""

    name: Literal["regex"] = "regex"
    pattern: Text
    """Regular expression of Python; `.` also matches line breaks."""
    full_match: bool = False
    """The whole completion has to match, not a part of it."""

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """A pattern that is no regular expression."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            yield Conflict((f"{key}.pattern",), f"not a regular expression: {error}", "correct it")

    def score(self, given: Completion) -> float:
        """1 or 0. Raises `OverrunError` if the search does not end."""
        pattern = re.compile(self.pattern, re.DOTALL)
        found = bounded(lambda: (pattern.fullmatch if self.full_match else pattern.search)(given.text))
        return float(found is not None)
