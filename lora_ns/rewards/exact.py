"""`exact`: the completion is the expected text."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards.base import Comparison, Completion


class Exact(Comparison):
    """1 if the completion is the expected text, apart from white space at its ends; else 0."""

    name: Literal["exact"] = "exact"
    ignore_case: bool = False
    """Compare without case."""

    verifies: ClassVar[bool] = True

    def score(self, given: Completion) -> float:
        """1 or 0."""
        found, expected = given.text.strip(), self.expected(given).strip()
        if self.ignore_case:
            found, expected = found.casefold(), expected.casefold()
        return float(found == expected)
