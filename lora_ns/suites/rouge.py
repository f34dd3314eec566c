"""`rouge`: the answer shares words with the expected text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.formats import RowFaultError
from lora_ns.statistics import Measure, mean
from lora_ns.suites.base import Gold
from lora_ns.suites.references import ReferencesSuite

_FIGURES = ("rougeL", "rouge1", "rouge2")


class RougeSuite(ReferencesSuite):
    """Mean F-measures of ROUGE-L, ROUGE-1 and ROUGE-2 (Lin 2004), between 0 and 1, by rouge-score."""

    kind: Literal["rouge"] = "rouge"
    use_stemmer: bool = False
    """Compare English words by their stems (Porter)."""

    package: ClassVar[str] = "rouge_score"
    extra: ClassVar[str] = "evaluation"

    def check(self, gold: Gold) -> None:
        """Check that the references have words that ROUGE reads. Raises `RowFaultError`."""
        from rouge_score.tokenize import tokenize

        if not all(tokenize(text, None) for text in self.references(gold)):
            what = "the expected text has no Latin letter or digit, and ROUGE reads no others"
            raise RowFaultError(what, 'measure with the suite `kind = "chrf"`')

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`rougeL`, `rouge1` and `rouge2`; with several references, each by the best of them."""
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(list(_FIGURES), use_stemmer=self.use_stemmer)
        scores = [
            scorer.score_multi(self.references(gold), answer) for gold, answer in zip(golds, answers, strict=True)
        ]
        return {name: mean([one[name].fmeasure for one in scores], bounds=(0, 1)) for name in _FIGURES}
