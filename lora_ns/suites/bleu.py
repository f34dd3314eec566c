"""`bleu`: the answers share n-grams of words with the expected texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.statistics import Measure, corpus
from lora_ns.suites.base import Gold
from lora_ns.suites.references import ReferencesSuite

_ORDERS = 4


class BleuSuite(ReferencesSuite):
    """BLEU of all answers together (Papineni et al. 2002), between 0 and 100, as `corpus_score` of sacrebleu."""

    kind: Literal["bleu"] = "bleu"
    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a"
    """Tokenizer of sacrebleu: `13a` for languages with spaces, `zh` for Chinese, `char` for Japanese and others."""
    lowercase: bool = False
    """Compare without case."""

    package: ClassVar[str] = "sacrebleu"
    extra: ClassVar[str] = "evaluation"

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`bleu`, whose sums are lengths, right and all n-grams."""
        from sacrebleu.metrics import BLEU

        metric = BLEU(lowercase=self.lowercase, tokenize=self.tokenize, force=True)
        rows = metric._extract_corpus_statistics(list(answers), streams([self.references(gold) for gold in golds]))
        usual = max(_ORDERS, round(sum(row[1] for row in rows) / max(1, len(rows))))
        totals = [usual - order for order in range(_ORDERS)]
        kinds = [[usual, usual, *right, *totals] for right in ([0] * _ORDERS, totals)]
        return {"bleu": corpus(rows, bleu_of_sums, (0.0, 100.0), kinds)}


def streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References by number instead of by item, as sacrebleu takes them; None where an item has fewer."""
    most = max((len(texts) for texts in references), default=1)
    return [[texts[number] if number < len(texts) else None for texts in references] for number in range(most)]


def bleu_of_sums(sums: Any) -> Any:
    """BLEU of arrays of sums (..., 10): length of the answers and of the references, right n-grams, all n-grams.

    An order without a right n-gram is smoothed as in mteval-v13a: half, a quarter, ... of one is right.
    """
    import numpy as np

    length, expected = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2 : 2 + _ORDERS], sums[..., 2 + _ORDERS :]
    smoothed = np.where(right > 0, right, 0.5 ** np.cumsum(right == 0, axis=-1))
    logs = np.log(smoothed / np.where(total > 0, total, 1.0))
    penalty = np.minimum(0.0, 1.0 - expected / np.where(length > 0, length, 1.0))
    is_scored = (right > 0).any(axis=-1) & (total > 0).all(axis=-1)
    return np.where(is_scored, 100.0 * np.exp(penalty + logs.mean(axis=-1)), 0.0)
