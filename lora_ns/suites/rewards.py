"""What runs that reinforce completions are measured by, prompt by prompt. Recipes do not name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.statistics import Measure, mean
from lora_ns.suites.base import Asks, Gold, Suite


class RewardSuite(Suite):
    """Mean reward of the completions of a prompt."""

    kind: Literal["rewards"] = "rewards"

    asks: ClassVar[Asks] = "rank"

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`reward`."""
        del golds
        return {"reward": mean(answers)}
