"""From the rows of a recipe to tokenised data sets: rendered, cut, packed, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.engine.render import Rendered, Renderer, encode_labelled
from lora_ns.engine.sources import Source
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Example, Format, Labelled, RawText, RowFaultError
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.objectives import Sft
from lora_ns.rows import Row, told, try_each

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


ROWS_AT_ONCE = 1000
"""Rows that are tokenised in one call."""


@dataclass
class Tally:
    """What became of the rows of a source."""

    rows: int = 0
    dropped: int = 0
    truncated: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    too_long: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Encoded:
    """A sequence as the model sees it, and the row that it comes from."""

    where: str
    inputs: Mapping[str, Any]
    trained: list[bool] = field(default_factory=list)
    """For each token, whether its prediction is in the loss; empty for a classifier."""

    @property
    def input_ids(self) -> list[int]:
        """Its tokens."""
        ids: list[int] = self.inputs["input_ids"]
        return ids

    def row(self) -> Mapping[str, Any]:
        """What the trainer takes."""
        return {**self.inputs, "labels": Rendered(self.input_ids, self.trained).labels} if self.trained else self.inputs


@dataclass(frozen=True)
class Encoding:
    """All sequences of a source, what became of its rows, and the problems of those that have one."""

    sequences: list[Encoded]
    tally: Tally
    problems: list[Problem]


@dataclass(frozen=True)
class Tokenized:
    """Rows as the model sees them, and what became of those that were read."""

    dataset: datasets.Dataset
    tally: Tally


def encode_causal(source: Source, form: Format, renderer: Renderer, loaded: LoadedRecipe) -> Encoding:
    """Rows of a causal language model, `input_ids` and `trained`, and the problems of those that have one.

    Nothing is longer than the recipe allows: what would be is left out, cut, or counted, as `sft.on_overflow` says.
    """
    sft = loaded.recipe.sft
    tally = Tally(rows=len(source.rows))
    sequences: list[Encoded] = []
    problems: list[Problem] = []
    for start in range(0, len(source.rows), ROWS_AT_ONCE):
        found, faults = encode_rows(source.rows[start : start + ROWS_AT_ONCE], form, renderer, sft, tally)
        sequences += found
        problems += faults
    tally.tokens = sum(len(sequence.input_ids) for sequence in sequences)
    tally.trained_tokens = sum(sum(sequence.trained) for sequence in sequences)
    if sft.on_overflow == "error" and tally.too_long:
        problems.append(overflow_problem(loaded, source, tally))
    elif not sequences and not problems:
        what = f"all {len(source.rows):,} rows are longer than {sft.max_seq_length} tokens"
        problems.append(Problem(source.name, what, "raise `sft.max_seq_length`"))
    return Encoding(sequences, tally, problems)


def encode_rows(
    rows: Sequence[Row], form: Format, renderer: Renderer, sft: Sft, tally: Tally
) -> tuple[list[Encoded], list[Problem]]:
    """The sequences of some rows, encoded in one go and counted in the tally, and the problems of the others."""
    found, _ = try_each(rows, lambda row: (id(row), (row.form or form).example(row.values)))
    examples: dict[int, Example] = dict(found)  # not by their places: two sources may read one file in two ways
    renderer.ahead(examples.values())  # type: ignore[arg-type]

    def encode(row: Row) -> list[Encoded]:
        example = examples.get(id(row)) or (row.form or form).example(row.values)
        sequences = renderer.examples(example)  # type: ignore[arg-type]
        if sft.on_overflow == "split":
            sequences = [part for sequence in sequences for part in _split_text(example, sequence, sft.max_seq_length)]
        kept = [encoded for sequence in sequences if (encoded := _fit(row.where, sequence, sft, tally)) is not None]
        if kept and not any(any(sequence.trained[1:]) for sequence in kept):
            raise RowFaultError(
                "no token of this row would be learned", "shorten its prompt or drop the row", "MASK001"
            )
        return kept

    of_rows, problems = try_each(rows, encode)
    renderer.memo.clear()
    return [sequence for row in of_rows for sequence in row], problems


def encode(source: Source, form: Format, renderer: Renderer, loaded: LoadedRecipe, labels: Sequence[str]) -> Encoding:
    """The rows of a source as the recipe's task needs them."""
    if loaded.recipe.task_type == "CAUSAL_LM":
        return encode_causal(source, form, renderer, loaded)
    return encode_labelled_rows(source, form, renderer.tokenizer, loaded, labels)


def tokenize(
    source: Source, form: Format, renderer: Renderer, loaded: LoadedRecipe, labels: Sequence[str]
) -> Tokenized:
    """The rows of a source as a data set: `input_ids`, `labels`, `length` and what else the model takes.

    Raises:
        DataError: with the rows that cannot be rendered, are too long, have nothing to learn or an unknown class.
    """
    encoding = encode(source, form, renderer, loaded, labels)
    if encoding.problems:
        raise DataError(told(encoding.problems))
    return Tokenized(as_dataset(encoding.sequences), encoding.tally)


def _fit(where: str, rendered: Rendered, sft: Sft, tally: Tally) -> Encoded | None:
    """A sequence that is no longer than the recipe allows; None if it is left out. Raises `RowFaultError`."""
    ids, trained = rendered.input_ids, rendered.trained
    tally.longest = max(tally.longest, len(ids))
    if len(ids) > sft.max_seq_length:
        tally.too_long.append((where, len(ids)))
        if sft.on_overflow in {"drop", "error"}:
            tally.dropped += 1
            return None
        ids, trained = _cut(ids, trained, sft.max_seq_length, sft.on_overflow)
        tally.truncated += 1
    return Encoded(where, {"input_ids": ids}, trained)


def _split_text(example: Any, rendered: Rendered, limit: int) -> list[Rendered]:
    """A long text in pieces that follow one another; a row with an answer in it cannot be split."""
    ids, trained = rendered.input_ids, rendered.trained
    if len(ids) <= limit:
        return [rendered]
    if not isinstance(example, RawText):
        what = f"{len(ids)} tokens are longer than `sft.max_seq_length`, and only raw text can be split"
        raise RowFaultError(what, 'write `on_overflow = "drop"` or "truncate-prompt"', "LEN001")
    starts = range(0, len(ids), limit)
    return [Rendered(ids[start : start + limit], trained[start : start + limit]) for start in starts]


def _cut(ids: list[int], trained: list[bool], limit: int, policy: str) -> tuple[list[int], list[bool]]:
    if policy == "truncate":
        return ids[:limit], trained[:limit]
    first = trained.index(True) if any(trained) else 0
    excess = len(ids) - limit
    if excess > first:
        raise RowFaultError(
            "the answer alone is longer than `sft.max_seq_length`", "raise it, or drop the row", "LEN001"
        )
    return ids[excess:], trained[excess:]


def overflow_problem(loaded: LoadedRecipe, source: Source, tally: Tally) -> Problem:
    """That rows are too long, which, and what to write."""
    limit = loaded.recipe.sft.max_seq_length
    count = len(tally.too_long)
    rows = ", ".join(f"{where} ({length})" for where, length in tally.too_long[:3])
    share = f"{count:,} of {len(source.rows):,} rows" if count > 1 else "1 row"
    more = f", ...; the longest has {tally.longest}" if count > 3 else ""
    what = f"sft.max_seq_length: {share} longer than {limit} tokens: {rows}{more}"
    return Problem(
        loaded.where("sft.max_seq_length"),
        what,
        f'write {tally.longest}, or `on_overflow = "drop"` or "truncate-prompt"',
        "LEN001",
    )


def encode_labelled_rows(
    source: Source, form: Format, tokenizer: PreTrainedTokenizerBase, loaded: LoadedRecipe, labels: Sequence[str]
) -> Encoding:
    """Rows of a classifier: the tokenizer's inputs and `labels`, the number of the class; and their problems."""
    limit = loaded.recipe.classification.max_seq_length
    numbers = {name: number for number, name in enumerate(labels)}
    tally = Tally(rows=len(source.rows))

    def encode(row: Row) -> Encoded:
        example = (row.form or form).example(row.values)
        assert isinstance(example, Labelled)
        if example.label not in numbers:
            known = f"known: {', '.join(labels[:20])}"
            raise RowFaultError(f"class `{example.label}` is not among those trained", known, "LABEL001")
        inputs = encode_labelled(tokenizer, example)
        length = len(inputs["input_ids"])
        tally.longest = max(tally.longest, length)
        if length > limit:
            tally.truncated += 1
            inputs = encode_labelled(tokenizer, example, limit)
        return Encoded(row.where, {**inputs, "labels": numbers[example.label]})

    sequences, problems = try_each(source.rows, encode)
    tally.tokens = sum(len(sequence.input_ids) for sequence in sequences)
    tally.trained_tokens = len(sequences)
    return Encoding(sequences, tally, problems)


def as_dataset(sequences: Sequence[Encoded]) -> datasets.Dataset:
    """Sequences as an Arrow table of 32-bit numbers, with the length of each."""
    import datasets
    import numpy
    import pyarrow

    encoded = [sequence.row() for sequence in sequences]
    columns: dict[str, Any] = {}
    for name in encoded[0]:
        values = [row[name] for row in encoded]
        if isinstance(values[0], list):
            offsets = numpy.cumsum([0, *map(len, values)], dtype=numpy.int64)
            flat = numpy.fromiter(
                (number for row in values for number in row), dtype=numpy.int32, count=int(offsets[-1])
            )
            columns[name] = pyarrow.LargeListArray.from_arrays(offsets, flat)
        else:
            columns[name] = pyarrow.array(values, type=pyarrow.int64())
    columns["length"] = pyarrow.array([len(row["input_ids"]) for row in encoded], type=pyarrow.int32())
    return datasets.Dataset(pyarrow.table(columns))


def pack(data: datasets.Dataset, length: int) -> datasets.Dataset:
    """Several rows in one of at most `length` tokens, best fit decreasing, with their lengths in `seq_lengths`."""
    import trl

    return trl.pack_dataset(data.select_columns(["input_ids", "labels"]), length, "bfd")
