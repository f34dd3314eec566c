"""`math`: the answer is mathematically equal to the expected expression."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards import RewardFunction
from lora_ns.rewards.math_verify import Math
from lora_ns.suites.base import JudgedSuite
from lora_ns.table import Column


class MathSuite(JudgedSuite):
    """Share of answers whose final expression equals the expected one, in LaTeX or plain, as in the reward `math`."""

    kind: Literal["math"] = "math"
    column: Column | None = None
    """Column with the expected text; by default the reference answer of the row."""

    figure: ClassVar[str] = "math"
    package: ClassVar[str] = "math_verify"

    @property
    def judge(self) -> RewardFunction:
        """The reward function of the same name."""
        return Math(column=self.column)
