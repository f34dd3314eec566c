"""`math`: the completion is mathematically equal to the expected expression."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards.base import Comparison, Completion
from lora_ns.safety.deadline import bounded


class Math(Comparison):
    """1 if the final expression of the completion equals the expected one, in LaTeX or plain; else 0.

    Both are parsed and compared by `math_verify`, within a limit of time and memory.
    """

    name: Literal["math"] = "math"

    package: ClassVar[str] = "math_verify"

    def score(self, given: Completion) -> float:
        """1 or 0. Raises `OverrunError` if parsing does not end."""
        from math_verify import parse, verify

        expected = self.expected(given)

        def compare() -> bool:
            # Its own timeouts use signals of the main thread, which `bounded` sets as well.
            gold = parse(expected, parsing_timeout=None) or parse(f"${expected}$", parsing_timeout=None)
            return bool(verify(gold, parse(given.text, parsing_timeout=None), timeout_seconds=None))

        return float(bounded(compare))
