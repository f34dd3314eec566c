"""`drift`: the distance of a model from its base on neutral prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from lora_ns.statistics import Measure, mean, share
from lora_ns.suites.base import Asks, Gold, Suite
from lora_ns.table import PositiveInt


class DriftSuite(Suite):
    """Distance from the base: KL divergence of a token of the base's greedy answers, and changed greedy answers."""

    kind: Literal["drift"] = "drift"
    max_new_tokens: PositiveInt = 32
    """Maximum length of the base's answers."""

    asks: ClassVar[Asks] = "drift"
    lower_is_better: ClassVar[tuple[str, ...]] = ("kl", "changed")

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`kl`, in nats per token, and `changed`, the share of answers in which a most likely token is another one."""
        del golds
        per_token = [divergence / max(1, tokens) for divergence, tokens, _ in answers]
        return {
            "kl": replace(mean(per_token, [tokens for _, tokens, _ in answers]), bounds=(0.0, float("inf"))),
            "changed": share([bool(changed) for _, _, changed in answers]),
        }
