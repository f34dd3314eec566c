"""`contains`: the answer contains texts."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards import RewardFunction
from lora_ns.rewards.contains import Contains
from lora_ns.suites.base import JudgedSuite
from lora_ns.table import Column, Text


class ContainsSuite(JudgedSuite):
    """Share of the texts that answers contain, as the reward `contains` counts them."""

    kind: Literal["contains"] = "contains"
    column: Column | None = None
    """Column with the text; by default the reference answer of the row."""
    texts: tuple[Text, ...] = ()
    """Texts to contain, the same for all rows, instead of `column`."""
    ignore_case: bool = False
    """Compare without case."""

    figure: ClassVar[str] = "contains"
    is_share: ClassVar[bool] = False

    @property
    def judge(self) -> RewardFunction:
        """The reward function of the same name."""
        return Contains(column=self.column, texts=self.texts, ignore_case=self.ignore_case)
