"""`held-out`: the loss of the expected answers, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.statistics import Measure, corpus, mean
from lora_ns.suites.base import Asks, Gold, Suite


class HeldOutSuite(Suite):
    """Mean cross-entropy of a token of the expected answers, in nats, and its exponential, the perplexity."""

    kind: Literal["held-out"] = "held-out"

    asks: ClassVar[Asks] = "loss"
    lower_is_better: ClassVar[tuple[str, ...]] = ("loss", "perplexity")

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`loss` and `perplexity`. Rows without a token to predict do not count."""
        del golds
        losses = [loss / max(1, tokens) for loss, tokens in answers]
        return {
            "loss": mean(losses, [tokens for _, tokens in answers]),
            "perplexity": corpus([(tokens, loss) for loss, tokens in answers], _perplexity),
        }


def _perplexity(sums: Any) -> Any:
    import numpy

    tokens, loss = sums[..., 0], sums[..., 1]
    return numpy.exp(numpy.where(tokens > 0, loss / numpy.where(tokens > 0, tokens, 1), numpy.nan))
