"""What preference runs are measured by, pair by pair. Recipes do not name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.statistics import Measure, share
from lora_ns.suites.base import Asks, Gold, Suite


class PairSuite(Suite):
    """Share of pairs whose preferred answer has the higher score or log-probability."""

    kind: Literal["pairs"] = "pairs"
    figure: str = "accuracy"
    """Name of the figure."""

    asks: ClassVar[Asks] = "rank"

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The share of margins above 0."""
        del golds
        return {self.figure: share([margin > 0 for margin in answers])}
