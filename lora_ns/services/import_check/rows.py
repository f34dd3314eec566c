"""Comparison of the tokens of rows, with a description of each difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_ns.data.prepare import OpenedRows
from lora_ns.data.rows import Row
from lora_ns.data.source import Source
from lora_ns.objectives import Objective
from lora_ns.services.import_check.reader import LeftOutError, RowReader, Tokens, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Side:
    """The sequences of a row on one side."""

    sequences: tuple[Tokens, ...]
    left_out: str = ""
    """Reason for having no sequence; empty if there is one."""

    @property
    def count(self) -> int:
        """Number of tokens in the loss."""
        return sum(sequence.count for sequence in self.sequences)


@dataclass(frozen=True)
class RowPair:
    """A row on both sides."""

    number: int
    """Position among the compared rows, from 1."""
    where: str
    theirs: Side
    ours: Side
    difference: str = ""
    """Description of the difference; empty if there is none."""


@dataclass(frozen=True)
class Compared:
    """The compared rows, equal or not."""

    tool: str
    pairs: tuple[RowPair, ...]

    @property
    def left_out(self) -> int:
        """Number of rows that neither side trains on."""
        return sum(not pair.theirs.sequences and not pair.ours.sequences for pair in self.pairs)

    @property
    def different(self) -> tuple[RowPair, ...]:
        """The rows that differ."""
        return tuple(pair for pair in self.pairs if pair.difference)


MISSHAPEN = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""Exceptions of a reader, and of the tool itself, for a value of an unexpected type."""


@dataclass(frozen=True)
class RowComparer:
    """Comparison of single rows."""

    tool: str
    reader: RowReader
    rows: OpenedRows
    objective: Objective

    def pair(self, number: int, dataset: int, row: Row) -> RowPair:
        """Compare a row. Raises `UnsupportedError`."""
        theirs, ours = self._theirs(dataset, row), self._ours(row)
        return RowPair(number, row.where, theirs, ours, self._difference(number, theirs, ours))

    def _theirs(self, dataset: int, row: Row) -> Side:
        try:
            return Side(tuple(self.reader.read(dataset, row.values)))
        except LeftOutError as fault:
            return Side((), str(fault))
        except MISSHAPEN:
            what = f"{row.where} does not have the format that the configuration names; {self.tool} would fail there"
            raise UnsupportedError(what) from None

    def _ours(self, row: Row) -> Side:
        source = Source(row.where, [row])
        found = self.rows.encode(source, self.objective, row.form)
        if found.sequences:
            return Side(tuple(Tokens(tuple(one.input_ids), tuple(one.trained)) for one in found.sequences))
        problem = next(iter((*found.problems, *filter(None, [found.overflow]))), None)
        long = [f"{length} tokens, longer than `sft.max_seq_length`" for _, length in found.tally.too_long]
        return Side((), next(iter(long), "") or (problem.what if problem else "left out"))

    def _difference(self, number: int, theirs: Side, ours: Side) -> str:
        there, here = theirs.sequences, ours.sequences
        if not there or not here:
            return self._left_out(number, theirs, ours)
        if len(there) != len(here):
            return f"row {number} becomes {len(there)} sequences in {self.tool}, {len(here)} in this recipe"
        for their, our in zip(there, here, strict=True):
            if their.ids != our.ids:
                return self._other_tokens(number, their, our)
            if not their.trains_like(our):
                return self._other_labels(number, their, our, (theirs, ours))
        return ""

    def _left_out(self, number: int, theirs: Side, ours: Side) -> str:
        if theirs.sequences:
            trained = f"{self.tool} trains on {_tokens(theirs)} of it"
            return f"this recipe leaves out row {number} ({ours.left_out}); {trained}"
        if ours.sequences:
            trained = f"this recipe trains on {_tokens(ours)} of it"
            return f"{self.tool} leaves out row {number} ({theirs.left_out}); {trained}"
        return ""

    def _other_tokens(self, number: int, theirs: Tokens, ours: Tokens) -> str:
        at = _first_difference(theirs.ids, ours.ids)
        there, here = theirs.ids[at:], ours.ids[at:]
        if not there or not here:
            longer, ids = (self.tool, there) if there else ("this recipe", here)
            shorter = "this recipe" if there else self.tool
            return f"row {number} continues with {self._shown(ids)} in {longer}, but ends before it in {shorter}"
        return (
            f"row {number} differs from token {at + 1} on: {self.tool} has {self._shown(there)}, "
            f"this recipe {self._shown(here)}"
        )

    def _other_labels(self, number: int, theirs: Tokens, ours: Tokens, sides: tuple[Side, Side]) -> str:
        there, here = (side.count for side in sides)
        reason = self.reader.reason(theirs, ours)
        if not reason and all(ours.trained) and not all(theirs.trained):
            reason = f'`{self.objective.key("train_on")} = "all"`'
        if not reason:
            at = next(at for at in range(1, len(ours.ids)) if ours.trained[at] != theirs.trained[at])
            by = self.tool if theirs.trained[at] else "this recipe"
            reason = f"only {by} trains on token {at + 1}, {self._shown(ours.ids[at:])}"
        return f"{self.tool} trains on {there} tokens of row {number}, this recipe on {here}: {reason}"

    def _shown(self, ids: Sequence[int]) -> str:
        tokenizer: PreTrainedTokenizerBase = self.rows.renderer.tokenizer
        text = str(tokenizer.decode(list(ids[:_SHOWN])))
        return f"`{text}`{' ...' if len(ids) > _SHOWN else ''} ({', '.join(map(str, ids[:_SHOWN]))})"


_SHOWN = 4
"""Maximum number of tokens to show of a difference."""


def _tokens(side: Side) -> str:
    return f"{side.count} token{'s' * (side.count != 1)}"


def _first_difference(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
