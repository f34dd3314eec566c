"""`number`: the answer ends with the expected number, as in GSM8K."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards import RewardFunction
from lora_ns.rewards.number import Number
from lora_ns.suites.base import JudgedSuite
from lora_ns.table import Column, NonNegativeFloat


class NumberSuite(JudgedSuite):
    """Share of answers whose final number is that of the expected text, as the reward `number` reads both."""

    kind: Literal["number"] = "number"
    column: Column | None = None
    """Column with the expected text; by default the reference answer of the row."""
    tolerance: NonNegativeFloat = 0.0
    """Largest difference that counts as equal, relative to the expected number."""

    figure: ClassVar[str] = "number"

    @property
    def judge(self) -> RewardFunction:
        """The reward function of the same name."""
        return Number(column=self.column, tolerance=self.tolerance)
