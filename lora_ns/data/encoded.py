"""Encoded rows: sequences as the model sees them, with counts, and as a dataset."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.data.loss_mask import Rendered
from lora_ns.data.notices import LEFT_OUT, Noted
from lora_ns.data.places import Stretch
from lora_ns.errors import Problem

if TYPE_CHECKING:
    import datasets


@dataclass
class Tally:
    """Counts of the rows and tokens of a source."""

    rows: int = 0
    dropped: int = 0
    truncated: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens in the loss: for tags, one per tagged word; 0 if whole texts are labelled."""
    longest: int = 0
    lost_words: int = 0
    """Words that were truncated with their tags."""
    too_long: list[tuple[str, int]] = field(default_factory=list)
    is_text: bool = False
    """True if the rows are raw texts."""
    labels: Counter[bool] = field(default_factory=Counter)
    """Number of desirable and undesirable answers, if the answers are labelled."""
    noted: Noted = field(default_factory=Noted)

    @property
    def mean_length(self) -> float | None:
        """Tokens of a row on average; None without rows."""
        return self.tokens / self.rows if self.rows else None

    @property
    def trained_share(self) -> float:
        """Part of the tokens that are in the loss; 1 if none are known."""
        return self.trained_tokens / self.tokens if self.tokens and self.trained_tokens else 1.0

    @property
    def left_out(self) -> int:
        """Rows, or answers with their own sequence, that are not trained on for any reason."""
        return self.dropped + sum(len(self.noted.rows.get(code, ())) for code in LEFT_OUT)


@dataclass(frozen=True)
class Encoded:
    """A sequence as the model sees it, with the place of its row."""

    where: str
    inputs: Mapping[str, Any]
    trained: list[bool] = field(default_factory=list)
    """For each token, True if its prediction is in the loss; empty for a classifier."""

    @property
    def input_ids(self) -> list[int]:
        """The tokens of the sequence."""
        ids: list[int] = self.inputs["input_ids"]
        return ids

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)

    @property
    def trained_tokens(self) -> int:
        """Number of tokens in the loss."""
        return sum(self.trained)

    @property
    def length(self) -> int:
        """Positions that it takes in a batch."""
        return len(self.input_ids)

    def sides(self) -> Sequence[tuple[str, Encoded]]:
        """Return the sequences to show, each with a name if there are several."""
        return (("", self),)

    def row(self) -> Mapping[str, Any]:
        """Return the columns that the trainer takes."""
        return {**self.inputs, "labels": Rendered(self.input_ids, self.trained).labels} if self.trained else self.inputs


@dataclass(frozen=True)
class Encoding:
    """All sequences of a source, with counts and problems of its rows."""

    sequences: list[Encoded]
    tally: Tally
    problems: list[Problem]
    overflow: Problem | None = None
    """The problem of rows that are too long, if the recipe does not handle them."""


@dataclass(frozen=True)
class Tokenized:
    """Rows as the model sees them, with counts of the rows read."""

    dataset: datasets.Dataset
    tally: Tally
    places: Sequence[Stretch] = ()
    """Places of the rows of the dataset in their files."""


def as_dataset(sequences: Sequence[Encoded]) -> datasets.Dataset:
    """Build an Arrow dataset from sequences, with the length of each."""
    import datasets
    import numpy
    import pyarrow

    encoded = [sequence.row() for sequence in sequences]
    columns: dict[str, Any] = {}
    for name in encoded[0]:
        values = [row[name] for row in encoded]
        if isinstance(values[0], list):
            offsets = numpy.cumsum([0, *map(len, values)], dtype=numpy.int64)
            kind = numpy.float32 if values[0] and isinstance(values[0][0], float) else numpy.int32
            flat = numpy.fromiter(itertools.chain.from_iterable(values), dtype=kind, count=int(offsets[-1]))
            columns[name] = pyarrow.LargeListArray.from_arrays(offsets, flat)
        else:
            kinds = {float: pyarrow.float32(), str: pyarrow.large_string()}
            columns[name] = pyarrow.array(values, type=kinds.get(type(values[0]), pyarrow.int64()))
    columns["length"] = pyarrow.array([sequence.length for sequence in sequences], type=pyarrow.int32())
    return datasets.Dataset(pyarrow.table(columns))


def pack(data: datasets.Dataset, length: int) -> datasets.Dataset:
    """Pack rows into sequences of at most `length` tokens, best fit decreasing, with their lengths in `seq_lengths`."""
    import trl

    return trl.pack_dataset(data.select_columns(["input_ids", "labels"]), length, "bfd")
