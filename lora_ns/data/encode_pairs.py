"""Encoding of preference pairs: the prompt that both answers share is found by tokens, and both sides are fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_ns.data.encode_text import CausalRows
from lora_ns.data.encoded import Encoded
from lora_ns.data.loss_mask import Rendered
from lora_ns.data.notices import CHOSEN_CUT, IDENTICAL
from lora_ns.data.rows import Row
from lora_ns.formats import Example, Preference, RowFaultError


@dataclass(frozen=True)
class EncodedPair(Encoded):
    """A pair: the sequence with the preferred answer, and in `rejected_input_ids` the one with the rejected answer."""

    rejected_trained: list[bool] = field(default_factory=list)
    """For each token of the rejected sequence, True if its prediction is in the loss."""

    @property
    def rejected(self) -> Rendered:
        """The sequence with the rejected answer."""
        return Rendered(self.inputs["rejected_input_ids"], self.rejected_trained)

    @property
    def prompt(self) -> list[int]:
        """The tokens before both answers."""
        return self.input_ids[: self.trained.index(True)]

    @property
    def answers(self) -> tuple[list[int], list[int]]:
        """The tokens from the first learned one on: of the chosen answer, and of the rejected one."""
        rejected = self.rejected
        return (
            self.input_ids[self.trained.index(True) :],
            rejected.input_ids[rejected.trained.index(True) :],
        )

    @property
    def tokens(self) -> int:
        """Number of tokens of both sides."""
        return len(self.input_ids) + len(self.rejected.input_ids)

    @property
    def trained_tokens(self) -> int:
        """Number of tokens of both answers."""
        return sum(self.trained) + sum(self.rejected.trained)

    @property
    def length(self) -> int:
        """Length of the longer side."""
        return max(len(self.input_ids), len(self.rejected.input_ids))

    def row(self) -> Mapping[str, Any]:
        """Return the columns that the trainer takes."""
        return {**super().row(), "rejected_labels": self.rejected.labels}

    def sides(self) -> Sequence[tuple[str, Encoded]]:
        """Return both sequences with their names."""
        rejected = Encoded(self.where, {"input_ids": self.rejected.input_ids}, self.rejected_trained)
        return ("chosen", Encoded(self.where, {"input_ids": self.input_ids}, self.trained)), ("rejected", rejected)


class PairRows(CausalRows):
    """Encoder of preference rows to pairs, in chunks."""

    def _rendered_ahead(self, examples: Iterable[Example]) -> list[Any]:
        return [side for example in examples if isinstance(example, Preference) for side in example.sides]

    def _encode(self, row: Row, example: Example | None) -> list[Encoded]:
        """Return the pair of a row; empty if it is left out. Raises `RowFaultError`."""
        example = example or self._form(row).example(row.values)
        assert isinstance(example, Preference)
        sides = self.objective.sequences(example, self.renderer)
        _check_prompt(sides)
        if sides[0].input_ids == sides[1].input_ids:
            self.tally.noted.add(IDENTICAL, row.where)
            return []
        if any(self._is_left_out(row, side, [rendered]) for side, rendered in zip(example.sides, sides, strict=True)):
            return []
        fitted = self._fit_both(row.where, sides)
        if fitted is None:
            return []
        chosen, rejected = fitted
        ids = {"input_ids": chosen.input_ids, "rejected_input_ids": rejected.input_ids}
        pair = EncodedPair(row.where, ids, chosen.trained, rejected.trained)
        self._note(row.where, example.chosen, [pair])
        return [pair]

    def _fit_both(self, where: str, sides: Sequence[Rendered]) -> list[Rendered] | None:
        """Limit both sides to the allowed length; None if the pair is left out. Raises `RowFaultError`."""
        limit, lengths = self.objective.max_seq_length, [len(side.input_ids) for side in sides]
        self.tally.longest = max(self.tally.longest, *lengths)
        if max(lengths) <= limit:
            return list(sides)
        self.tally.too_long.append((where, max(lengths)))
        if self.objective.on_overflow in {"drop", "error"}:
            self.tally.dropped += 1
            return None
        self.tally.truncated += 1
        if self.objective.on_overflow == "truncate-prompt":
            return self._without_begin(sides, max(lengths) - limit)
        cut = [Rendered(side.input_ids[:limit], side.trained[:limit]) for side in sides]
        if not all(any(side.trained) for side in cut):
            what = "an answer of this pair is cut off completely"
            remedy = f'raise `{self.objective.key("max_seq_length")}`, or `on_overflow = "truncate-prompt"`'
            raise RowFaultError(what, remedy, "MASK001")
        if cut[0] == cut[1]:
            what = "both answers of this pair are the same up to the allowed length"
            raise RowFaultError(what, f"raise `{self.objective.key('max_seq_length')}`", "LEN001")
        if lengths[1] <= limit:
            self.tally.noted.add(CHOSEN_CUT, where)
        return cut

    def _without_begin(self, sides: Sequence[Rendered], excess: int) -> list[Rendered]:
        """Cut the start of the common prompt by as much on both sides. Raises `RowFaultError`."""
        if excess >= sides[0].trained.index(True):
            what = f"an answer alone is longer than `{self.objective.key('max_seq_length')}`"
            raise RowFaultError(what, "raise it, or remove the row", "LEN001")
        return [Rendered(side.input_ids[excess:], side.trained[excess:]) for side in sides]


def _check_prompt(sides: Sequence[Rendered]) -> None:
    """Check that both sides have the same tokens before their answers. Raises `RowFaultError`."""
    if not all(any(side.trained) for side in sides):
        what = "no token of an answer would be learned: `train` is false for it"
        raise RowFaultError(what, "remove `train`, or the row", "MASK001")
    prompts = [side.input_ids[: side.trained.index(True)] for side in sides]
    if prompts[0] != prompts[1]:
        what = "the chat template renders the prompt of the two answers differently"
        raise RowFaultError(what, "choose another template with `chat_template`", "PAIR002")
