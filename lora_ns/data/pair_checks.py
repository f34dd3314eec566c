"""Checks of preference pairs before training: do the rows carry a preference, and is it more than length?"""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from lora_ns.data.audit import Finding, normal_text
from lora_ns.data.encode_pairs import EncodedPair
from lora_ns.data.encoded import Encoding
from lora_ns.data.interval import wilson_interval
from lora_ns.data.source import Source

Decode = Callable[[list[int]], str]

STRONG_SHARE = 0.79
"""Share of pairs ranked right by length alone that is reported: Cohen's d of 0.8 for normally distributed lengths."""

FEWEST_PAIRS = 20
"""Number of pairs below which a share says too little for a warning."""


@dataclass(frozen=True)
class LengthBias:
    """Effect size of the answers' lengths in tokens (McGraw and Wong 1992)."""

    pairs: int
    longer: float
    """Share of pairs whose chosen answer is the longer one; equal lengths count half."""
    chosen: float
    """Median length of the chosen answers."""
    rejected: float
    """Median length of the rejected answers."""

    @property
    def is_strong(self) -> bool:
        """True if length alone ranks most of the pairs."""
        return self.pairs >= FEWEST_PAIRS and max(self.longer, 1 - self.longer) >= STRONG_SHARE

    def __str__(self) -> str:
        side, share = ("longer", self.longer) if self.longer >= 0.5 else ("shorter", 1 - self.longer)
        lowest, highest = wilson_interval(share, self.pairs)
        medians = f"medians {self.chosen:,.0f} and {self.rejected:,.0f} tokens"
        interval = f"95% interval {lowest:.0%} to {highest:.0%}"
        return f"the chosen answer is the {side} one in {share:.0%} of pairs ({interval}; {medians})"


def pairs_of(encoding: Encoding) -> list[EncodedPair]:
    """Return the pairs of a source, without the repetitions that mixing adds; empty for other rows."""
    return list({pair.where: pair for pair in encoding.sequences if isinstance(pair, EncodedPair)}.values())


def length_bias(pairs: Sequence[EncodedPair]) -> LengthBias:
    """Measure how far the lengths of the answers tell chosen from rejected ones, after truncation."""
    lengths = [(sum(pair.trained), sum(pair.rejected_trained)) for pair in pairs]
    wins = sum((chosen > rejected) + (chosen == rejected) / 2 for chosen, rejected in lengths)
    chosen, rejected = (median(side) for side in zip(*lengths, strict=True))
    return LengthBias(len(pairs), wins / len(pairs), chosen, rejected)


def check_pairs(
    train: tuple[Source, Encoding], evaluation: tuple[Source, Encoding] | None, decode: Decode
) -> tuple[list[Finding], list[str]]:
    """Run every check of pairs; returns findings, and notes that are not faults. Both are empty for other rows."""
    name, pairs = train[0].name, pairs_of(train[1])
    if not pairs:
        return [], []
    ranked = [_Ranked.of(pair) for pair in pairs]
    found = [*_within(name, pairs, ranked, decode)]
    if evaluation:
        held_out = pairs_of(evaluation[1])
        evaluated = [_Ranked.of(pair) for pair in held_out]
        found += _within(evaluation[0].name, held_out, evaluated, decode)
        found += _common_prompts(evaluation[0].name, ranked, evaluated)
    bias = length_bias(pairs)
    if not bias.is_strong:
        return found, [f"{name}: {bias}"]
    other = "shorter" if bias.longer >= 0.5 else "longer"
    what = f"{name}: {bias}, so the model may learn length alone"
    remedy = f"add pairs whose {other} answer is the better one, unless length is what the model should learn"
    return [*found, Finding("PAIR006", what, (), remedy)], []


def _within(name: str, pairs: Sequence[EncodedPair], ranked: Sequence[_Ranked], decode: Decode) -> Iterator[Finding]:
    """Yield the findings about the pairs of one source."""
    if alike := tuple(pair.where for pair in pairs if _is_alike(pair, decode)):
        what = f"{name}: pairs whose answers are the same, except for case, spaces and punctuation"
        yield Finding("PAIR003", what, alike, "remove them, unless that difference is what the model should learn")
    places: dict[tuple[bytes, ...], str] = {}
    swapped = []
    for rank in ranked:
        if rank.swapped in places:
            swapped.append(f"{rank.where} (as {places[rank.swapped]})")
        places.setdefault(rank.key, rank.where)
    if swapped:
        what = f"{name}: pairs that another row has with `chosen` and `rejected` swapped"
        remedy = "keep the right one of the two: together they teach nothing"
        yield Finding("PAIR004", what, tuple(swapped), remedy)
    rest = [rank for rank in ranked if rank.swapped not in places]
    if circles := tuple(_circles(rest)):
        what = f"{name}: pairs that contradict each other: for one prompt, A is preferred to B, B to C, and C to A"
        yield Finding("PAIR005", what, circles, "remove the wrong pair of each circle")


def _is_alike(pair: EncodedPair, decode: Decode) -> bool:
    """True if both answers are the same, except for case, spaces and punctuation; symbols and accents count."""
    chosen, rejected = (decode(answer) for answer in pair.answers)
    return normal_text(chosen) == normal_text(rejected) and _letters(chosen) == _letters(rejected)


def _letters(text: str) -> list[str]:
    """Return the words of a text in lower case, divided by spaces, punctuation and control characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(" " if unicodedata.category(one)[0] in "PZC" else one for one in folded).split()


@dataclass(frozen=True)
class _Ranked:
    """A pair with its tokens as bytes, which are compact keys."""

    where: str
    prompt: bytes
    chosen: bytes
    rejected: bytes

    @classmethod
    def of(cls, pair: EncodedPair) -> _Ranked:
        """Convert a pair."""
        return cls(pair.where, *(array("i", ids).tobytes() for ids in (pair.prompt, *pair.answers)))

    @property
    def key(self) -> tuple[bytes, ...]:
        """The pair without its place."""
        return self.prompt, self.chosen, self.rejected

    @property
    def swapped(self) -> tuple[bytes, ...]:
        """The key of the pair with its answers swapped."""
        return self.prompt, self.rejected, self.chosen


def _circles(ranked: Sequence[_Ranked]) -> Iterator[str]:
    """Yield the rows that are part of a circle of preferences for one prompt."""
    prompts: dict[bytes, list[_Ranked]] = defaultdict(list)
    for rank in ranked:
        prompts[rank.prompt].append(rank)
    for of_prompt in prompts.values():
        if len(of_prompt) < 3:
            continue
        circle = _strongly_connected([(rank.chosen, rank.rejected) for rank in of_prompt])
        yield from (rank.where for rank in of_prompt if circle[rank.chosen] == circle[rank.rejected])


_Edges = Sequence[tuple[bytes, bytes]]


def _strongly_connected(edges: _Edges) -> dict[bytes, bytes]:
    """Return a member of the strongly connected component of each node (Kosaraju's algorithm, Sharir 1981)."""
    last_first = [node for _, nodes in _searches(edges, [node for edge in edges for node in edge]) for node in nodes]
    backwards = [(end, start) for start, end in edges]
    return {node: root for root, nodes in _searches(backwards, last_first[::-1]) for node in nodes}


def _searches(edges: _Edges, roots: Sequence[bytes]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Search depth-first from each root; yields it with the nodes that are new, in the order in which they are left."""
    ends: dict[bytes, list[bytes]] = defaultdict(list)
    for start, end in edges:
        ends[start].append(end)
    seen: set[bytes] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        left, path = [], [(root, iter(ends[root]))]
        while path:
            node, rest = path[-1]
            new = next((end for end in rest if end not in seen), None)
            if new is None:
                left.append(node)
                path.pop()
            else:
                seen.add(new)
                path.append((new, iter(ends[new])))
        yield root, left


def _common_prompts(name: str, train: Sequence[_Ranked], evaluation: Sequence[_Ranked]) -> Iterator[Finding]:
    """Yield a finding for evaluation pairs whose prompt is trained on; pairs that are themselves are `LEAK001`."""
    places: dict[bytes, str] = {}
    known = set()
    for rank in train:
        places.setdefault(rank.prompt, rank.where)
        known.add(rank.key)
    found = tuple(
        f"{rank.where} (as {places[rank.prompt]})"
        for rank in evaluation
        if rank.prompt in places and rank.key not in known
    )
    if found:
        what = f"{name}: rows whose prompt is also the prompt of training rows"
        yield Finding("PAIR008", what, found, "split the rows by prompt, or the evaluation measures memorisation")
