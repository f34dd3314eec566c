"""The base's own ranking of preference pairs: does it agree with the labels, and do they look inverted?"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_ns.data.audit import Finding
from lora_ns.data.encode_completions import EncodedCompletion
from lora_ns.data.encode_pairs import EncodedPair
from lora_ns.data.encoded import Encoded
from lora_ns.data.interval import wilson_interval

MOST_PAIRS = 200
"""Number of pairs to rank, taken at equal distances from all of them."""

LEVEL = 0.01
"""Level of the binomial test of inverted labels."""

FAR, FAR_PER_TOKEN = 10.0, 1.0
"""Log-odds, in all and per token, at which a rejected answer counts as far likelier: the base would hardly write the
chosen one in its place."""

MOST_SHOWN = 5
"""Largest number of pairs that a note lists."""


@dataclass(frozen=True)
class AnswerPair:
    """A chosen and a rejected answer, each in its sequence."""

    where: str
    chosen: Encoded
    rejected: Encoded
    same_prompt: bool = True


def answer_pairs(sequences: Sequence[Encoded]) -> list[AnswerPair]:
    """Pair the answers of encoded rows; empty for rows without a preference.

    Labelled completions are paired with those of the same prompt, and the rest in their order.
    """
    once = {(one.where, one.inputs.get("label")): one for one in sequences}.values()  # mixing may repeat a row
    sides = [(one.where, one.sides()) for one in once if isinstance(one, EncodedPair)]
    found = [AnswerPair(where, chosen, rejected) for where, ((_, chosen), (_, rejected)) in sides]
    found += _paired([one for one in once if isinstance(one, EncodedCompletion)])
    return found


def sample(pairs: Sequence[AnswerPair]) -> list[AnswerPair]:
    """Return at most `MOST_PAIRS` pairs, at equal distances."""
    count = min(len(pairs), MOST_PAIRS)
    return [pairs[place * len(pairs) // count] for place in range(count)]


def _paired(answers: Sequence[EncodedCompletion]) -> Iterator[AnswerPair]:
    """Pair desirable with undesirable answers, each at most once."""
    prompts: dict[tuple[int, ...], tuple[list[Encoded], list[Encoded]]] = defaultdict(lambda: ([], []))
    for answer in answers:
        prompt = tuple(answer.input_ids[: answer.trained.index(True)])
        prompts[prompt][not answer.is_desirable].append(answer)
    rest: tuple[list[Encoded], list[Encoded]] = ([], [])
    for desirable, undesirable in prompts.values():
        yield from (AnswerPair(_places(*pair), *pair) for pair in zip(desirable, undesirable, strict=False))
        common = min(len(desirable), len(undesirable))
        rest[0].extend(desirable[common:])
        rest[1].extend(undesirable[common:])
    yield from (AnswerPair(_places(*pair), *pair, same_prompt=False) for pair in zip(*rest, strict=False))


def _places(chosen: Encoded, rejected: Encoded) -> str:
    """Name the rows of two answers, such as `rows.jsonl:1 (against rows.jsonl:2)`."""
    return chosen.where if chosen.where == rejected.where else f"{chosen.where} (against {rejected.where})"


@dataclass(frozen=True)
class LogProbability:
    """Log-probability of an answer, summed over its tokens."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Mean log-probability of a token."""
        return self.total / max(1, self.tokens)


@dataclass(frozen=True)
class Agreement:
    """Share of pairs whose chosen answer is the likelier one; equal ones count half."""

    share: float
    lowest: float
    """Lower end of the 95 % Wilson interval."""
    highest: float
    below_half: float
    """Probability of so few agreements or fewer by chance: one-sided binomial test against one half, without ties."""

    @classmethod
    def of(cls, margins: Sequence[float]) -> Agreement:
        """Count margins: the log-probability of each chosen answer minus the rejected one's."""
        right, ties = sum(margin > 0 for margin in margins), sum(margin == 0 for margin in margins)
        share, untied = (right + ties / 2) / len(margins), len(margins) - ties
        tail = sum(math.comb(untied, count) for count in range(right + 1)) / 2**untied
        return cls(share, *wilson_interval(share, len(margins)), tail)

    def __str__(self) -> str:
        return f"{self.share:.0%} (95% interval {self.lowest:.0%} to {self.highest:.0%})"


@dataclass(frozen=True)
class BaseRanking:
    """The base's ranking of some pairs."""

    pairs: int
    of: int
    """Number of pairs of which these are a sample, at equal distances."""
    same_prompt: bool
    """False if some pairs are labelled answers to different prompts."""
    by_sum: Agreement
    """By the log-probability of the whole answer, which favours short ones."""
    by_mean: Agreement
    """By the mean log-probability of a token."""
    far: tuple[tuple[str, float], ...]
    """Places of pairs whose rejected answer is far likelier, with the log-odds, the largest first."""
    findings: tuple[Finding, ...]

    @property
    def note(self) -> str:
        """The pairs whose rejected answer is far likelier; empty if there are none."""
        if not self.far:
            return ""
        first = ", ".join(f"{where} (by {odds:,.0f} nats)" for where, odds in self.far[:MOST_SHOWN])
        more = f" and {len(self.far) - MOST_SHOWN:,} more" if len(self.far) > MOST_SHOWN else ""
        count = f"{len(self.far):,} of {self.pairs:,} pairs"
        return f"{count} have a rejected answer that the base finds far likelier than the chosen one: {first}{more}"


def rank(
    name: str, pairs: Sequence[AnswerPair], of: int, found: Sequence[tuple[LogProbability, LogProbability]]
) -> BaseRanking:
    """Compare the base's ranking with the labels.

    Args:
        name: name of the rows.
        pairs: the pairs that were ranked.
        of: number of all pairs.
        found: the base's log-probabilities of the chosen and the rejected answer of each pair.
    """
    sums = [chosen.total - rejected.total for chosen, rejected in found]
    means = [chosen.mean - rejected.mean for chosen, rejected in found]
    by_sum, by_mean = Agreement.of(sums), Agreement.of(means)
    odds = [
        (pair.where, -total)
        for pair, total, mean in zip(pairs, sums, means, strict=True)
        if -total >= FAR and -mean >= FAR_PER_TOKEN
    ]
    far = tuple(sorted(odds, key=lambda one: -one[1]))
    findings = (_inverted(name, by_sum, by_mean),) if looks_inverted(by_sum, by_mean) else ()
    same_prompt = all(pair.same_prompt for pair in pairs)
    return BaseRanking(len(pairs), of, same_prompt, by_sum, by_mean, far, findings)


def looks_inverted(by_sum: Agreement, by_mean: Agreement) -> bool:
    """True if the base prefers the rejected answers in significantly more than half of the pairs, by both measures.

    A sum favours short answers, and a mean usually favours long ones. So the lengths of the answers explain at most
    one of them, and labels that only prefer short, or long, answers are not reported.
    """
    return max(by_sum.below_half, by_mean.below_half) < LEVEL


def _inverted(name: str, by_sum: Agreement, by_mean: Agreement) -> Finding:
    what = (
        f"{name}: `chosen` and `rejected` may be swapped: the base ranks only {by_mean} of the pairs right by the mean "
        f"log-probability of a token, and {by_sum} by that of the whole answer, so length does not explain it"
    )
    remedy = "read some with `--show 5`; it is right if the base wrote the rejected answers, or is to unlearn them"
    return Finding("PAIR009", what, (), remedy)
