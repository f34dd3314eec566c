"""Encoding of labelled completions: one sequence per answer, of which the answer alone is learned, and its label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.data.encode_text import CausalRows
from lora_ns.data.encoded import Encoded
from lora_ns.data.notices import IDENTICAL, ONE_LABEL
from lora_ns.data.rows import Row
from lora_ns.formats import Conversation, Example, LabelledCompletion, Preference


@dataclass(frozen=True)
class EncodedCompletion(Encoded):
    """A sequence whose answer is labelled: `label` of its inputs is 1 for a desirable answer, otherwise 0."""

    @property
    def is_desirable(self) -> bool:
        """True if the answer is to be preferred."""
        return bool(self.inputs["label"])

    def sides(self) -> Sequence[tuple[str, Encoded]]:
        """Return the sequence with its label as the name."""
        return (("desirable" if self.is_desirable else "undesirable", self),)


class CompletionRows(CausalRows):
    """Encoder of labelled answers; a preference pair becomes a desirable and an undesirable one."""

    def _rendered_ahead(self, examples: Iterable[Example]) -> list[Any]:
        return [side for example in examples for side, _ in _labelled(example)]

    def _encode(self, row: Row, example: Example | None) -> list[Encoded]:
        """Return the sequences of a row; empty if it is left out. Raises `RowFaultError`."""
        example = example or self._form(row).example(row.values)
        if isinstance(example, Preference) and example.chosen == example.rejected:
            self.tally.noted.add(IDENTICAL, row.where)
            return []
        found: list[Encoded] = []
        for side, is_desirable in _labelled(example):
            for kept in super()._encode(row, side):
                inputs = {**kept.inputs, "label": int(is_desirable)}
                found.append(EncodedCompletion(kept.where, inputs, kept.trained))
        return found

    def look_at_all(self, sequences: Sequence[Encoded]) -> None:
        """Count the labels, and record the rows if all have the same one."""
        self.tally.labels = Counter(bool(sequence.inputs["label"]) for sequence in sequences)
        if len(self.tally.labels) == 1:
            for sequence in sequences:
                self.tally.noted.add(ONE_LABEL, sequence.where)


def _labelled(example: Example) -> Sequence[tuple[Conversation, bool]]:
    """The conversations of an example, each with its label."""
    if isinstance(example, Preference):
        return (example.chosen, True), (example.rejected, False)
    assert isinstance(example, LabelledCompletion)
    return ((example.conversation, example.is_desirable),)
