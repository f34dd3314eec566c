"""`chrf`: the answers share n-grams of characters with the expected texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.statistics import Measure, corpus
from lora_ns.suites.base import Gold
from lora_ns.suites.bleu import streams
from lora_ns.suites.references import ReferencesSuite

_BETA = 2
"""How much more recall counts than precision."""


class ChrfSuite(ReferencesSuite):
    """ChrF of all answers together (Popović 2015), between 0 and 100, as `corpus_score` of sacrebleu.

    It needs no words, so it fits every language.
    """

    kind: Literal["chrf"] = "chrf"
    word_order: Annotated[int, Field(ge=0, le=4)] = 0
    """Longest n-grams of words to count too; 2 makes it chrF++."""
    lowercase: bool = False
    """Compare without case."""

    package: ClassVar[str] = "sacrebleu"
    extra: ClassVar[str] = "evaluation"

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`chrf`, whose sums are the n-grams of answers, of references, and of both, for each order."""
        from sacrebleu.metrics import CHRF

        metric = CHRF(word_order=self.word_order, lowercase=self.lowercase)
        rows = metric._extract_corpus_statistics(list(answers), streams([self.references(gold) for gold in golds]))
        found = corpus(rows, chrf_of_sums, (0.0, 100.0))
        if not rows:
            return {"chrf": found}
        usual = found.rows[:, 1::3].mean(axis=0)  # n-grams of a usual reference
        kinds = [[value for count in usual for value in (count, count, right * count)] for right in (0, 1)]
        return {"chrf": replace(found, kinds=corpus(kinds, chrf_of_sums).rows, scores=chrf_of_sums(found.rows))}


def chrf_of_sums(sums: Any) -> Any:
    """ChrF of arrays of sums (..., 3 x orders): for each order the n-grams of answers, of references, and of both.

    Orders count that both sides have.
    """
    import numpy as np

    answered, expected, both = (sums[..., start::3] for start in range(3))
    counts = (answered > 0) & (expected > 0)
    orders = np.maximum(counts.sum(axis=-1), 1)
    precision, recall = (
        np.where(counts, both / np.where(counts, side, 1.0), 0.0).sum(axis=-1) / orders for side in (answered, expected)
    )
    weighted = _BETA**2 * precision + recall
    product = 100.0 * (1 + _BETA**2) * precision * recall
    return np.where(weighted > 0, product / np.where(weighted > 0, weighted, 1.0), 0.0)
