"""`regex`: the answer matches a pattern."""

from __future__ import annotations

from typing import ClassVar, Literal

from lora_ns.rewards import RewardFunction
from lora_ns.rewards.regex import Regex
from lora_ns.suites.base import JudgedSuite
from lora_ns.table import Text


class RegexSuite(JudgedSuite):
    """Share of answers in which a pattern is found."""

    kind: Literal["regex"] = "regex"
    pattern: Text
    """Regular expression of Python; `.` also matches line breaks."""
    full_match: bool = False
    """The whole answer has to match, not a part of it."""

    figure: ClassVar[str] = "regex"

    @property
    def judge(self) -> RewardFunction:
        """The reward function of the same name."""
        return Regex(pattern=self.pattern, full_match=self.full_match)
