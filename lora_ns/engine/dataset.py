"""From the rows of a recipe to tokenised data sets: read, recognised, rendered, cut, packed, counted."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lora_ns.datafile import find_files, shown
from lora_ns.engine.render import Rendered, Renderer, encode_labelled
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Columns, Example, Format, Labelled, RawText, RowFaultError, detect
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.objectives import Sft
from lora_ns.rows import Row, for_each, read_files, told, try_each

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase


ROWS_AT_ONCE = 1000
"""Rows that are tokenised in one call."""


@dataclass(frozen=True)
class Source:
    """Rows of some files or of a split, with what tells them from others."""

    name: str
    rows: Sequence[Row]
    sha256: str
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, the names of its classes in the order of their numbers, where the data set has them."""
    left_out: Sequence[Problem] = ()
    """What is wrong with the rows that cannot be read and were left out."""


@dataclass(frozen=True)
class Sources:
    """The rows of a recipe and how they are read."""

    train: Source
    eval: Source | None
    format: Format
    columns: Columns
    why: str
    """Why this format."""


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


def read_sources(loaded: LoadedRecipe) -> Sources:
    """Read the rows that a recipe names and recognise their format.

    Raises:
        DataError: with the files, rows and columns that cannot be read.
    """
    recipe = loaded.recipe.dataset
    train = _read(loaded, recipe.path, recipe.train_split, recipe.max_samples, "dataset.path")
    evaluation = None
    if recipe.eval_path or recipe.eval_split:
        evaluation = _read(loaded, recipe.eval_path, recipe.eval_split, recipe.max_eval_samples, "dataset.eval_path")
    elif recipe.eval_fraction:
        train, evaluation = _split(loaded, train)
    names = list(dict.fromkeys(name for row in train.rows[:100] for name in row.values))
    columns = Columns(**{key: getattr(recipe, key) for key in Columns.__dataclass_fields__})
    try:
        form, why = detect(columns, names, train.rows[0].values, loaded.recipe.task_type)
    except RowFaultError as fault:
        raise DataError(_column_problem(loaded, train.name, fault)) from None
    return Sources(train, evaluation, form, form.columns, why)  # type: ignore[attr-defined]


def _column_problem(loaded: LoadedRecipe, source: str, fault: RowFaultError) -> Problem:
    key = fault.what.split(":")[0] if fault.what.startswith("dataset.") else "dataset"
    return Problem(
        loaded.where(key), f"{fault.what} ({source})" if key != "dataset" else f"{source}: {fault.what}", fault.remedy
    )


def _read(
    loaded: LoadedRecipe, names: str | Sequence[str] | None, split: str | None, limit: int | None, key: str
) -> Source:
    if not names:
        return _read_hub(loaded, split or "train", limit)
    files = find_files(loaded, names, key)
    found = read_files(files, limit, loaded.recipe.dataset.max_bad_rows)
    return Source(shown(names, files), found.rows, _digest(found.rows), left_out=found.left_out)


def _read_hub(loaded: LoadedRecipe, split: str, limit: int | None) -> Source:
    import datasets

    recipe = loaded.recipe.dataset
    name = f"{recipe.name}{f'/{recipe.subset}' if recipe.subset else ''}[{split}]"
    try:
        data = datasets.load_dataset(recipe.name, recipe.subset, split=split, revision=recipe.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(_hub_problem(loaded, name, error)) from None
    if limit is not None:
        data = data.select(range(min(limit, len(data))))
    classes = {
        column: tuple(feature.names)
        for column, feature in data.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    rows = [Row(f"{name}, row {number}", _named(values, classes)) for number, values in enumerate(data, start=1)]
    if not rows:
        raise DataError(Problem(name, "no rows", "name another split"))
    return Source(name, rows, _digest(rows), classes)


def _named(values: Mapping[str, Any], classes: Mapping[str, tuple[str, ...]]) -> Mapping[str, Any]:
    """A row with the names of its classes; a number that is none, such as the -1 of a hidden test set, stays."""
    named = {
        column: names[values[column]]
        for column, names in classes.items()
        if values[column] is not None and 0 <= values[column] < len(names)
    }
    return {**values, **named}


def _hub_problem(loaded: LoadedRecipe, shown: str, error: Exception) -> Problem:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    missing = type(error).__name__ in {
        "DatasetNotFoundError",
        "FileNotFoundError",
        "ConnectionError",
        "OfflineModeIsEnabled",
    }
    remedy = (
        "check `name`, `subset` and the connection; for a private one `hf auth login`; or give `path` a file"
        if missing
        else "check `subset` and the split"
    )
    return Problem(loaded.where("dataset.name"), f"dataset.name: {shown} cannot be read: {text}", remedy)


def _digest(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _split(loaded: LoadedRecipe, source: Source) -> tuple[Source, Source]:
    """Set the evaluation share aside, drawn by the seed; the order of the rest stays."""
    recipe = loaded.recipe.dataset
    count = max(1, round(recipe.eval_fraction * len(source.rows)))
    if count >= len(source.rows):
        what = f"dataset.eval_fraction: {len(source.rows)} rows cannot be split"
        raise DataError(Problem(loaded.where("dataset.eval_fraction"), what, "give more rows, or `eval_path`"))
    drawn = set(random.Random(loaded.recipe.training.seed).sample(range(len(source.rows)), count))
    train = [row for number, row in enumerate(source.rows) if number not in drawn]
    held_out = [row for number, row in enumerate(source.rows) if number in drawn][: recipe.max_eval_samples]
    rest = replace(source, rows=train, sha256=_digest(train))
    name = f"{source.name} (held out)"
    return rest, replace(source, name=name, rows=held_out, sha256=_digest(held_out), left_out=())


def encode_causal(source: Source, form: Format, renderer: Renderer, loaded: LoadedRecipe) -> Encoding:
    """Rows of a causal language model, `input_ids` and `trained`, and the problems of those that have one.

    Nothing is longer than the recipe allows: what would be is left out, cut, or counted, as `sft.on_overflow` says.
    """
    sft = loaded.recipe.sft
    tally = Tally(rows=len(source.rows))

    def encode(row: Row) -> list[Encoded]:
        example = examples.get(row.where) or form.example(row.values)
        sequences = renderer.examples(example)  # type: ignore[arg-type]
        if sft.on_overflow == "split":
            sequences = [part for sequence in sequences for part in _split_text(example, sequence, sft.max_seq_length)]
        kept = [encoded for sequence in sequences if (encoded := _fit(row.where, sequence, sft, tally)) is not None]
        if kept and not any(any(sequence.trained[1:]) for sequence in kept):
            raise RowFaultError(
                "no token of this row would be learned", "shorten its prompt or drop the row", "MASK001"
            )
        return kept

    sequences: list[Encoded] = []
    problems: list[Problem] = []
    examples: dict[str, Example] = {}
    for start in range(0, len(source.rows), ROWS_AT_ONCE):
        rows = source.rows[start : start + ROWS_AT_ONCE]
        examples = dict(try_each(rows, lambda row: (row.where, form.example(row.values)))[0])
        renderer.ahead(examples.values())  # type: ignore[arg-type]
        found, faults = try_each(rows, encode)
        sequences += [sequence for row in found for sequence in row]
        problems += faults
    renderer.memo.clear()
    tally.tokens = sum(len(sequence.input_ids) for sequence in sequences)
    tally.trained_tokens = sum(sum(sequence.trained) for sequence in sequences)
    if sft.on_overflow == "error" and tally.too_long:
        problems.append(_overflow_problem(loaded, source, tally))
    elif not sequences and not problems:
        what = f"all {len(source.rows):,} rows are longer than {sft.max_seq_length} tokens"
        problems.append(Problem(source.name, what, "raise `sft.max_seq_length`"))
    return Encoding(sequences, tally, problems)


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


def _overflow_problem(loaded: LoadedRecipe, source: Source, tally: Tally) -> Problem:
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
        example = form.example(row.values)
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


def find_labels(source: Source, form: Format, loaded: LoadedRecipe) -> tuple[str, ...]:
    """The classes: those that the recipe names, else the data set, else those of its rows, in the order of their names.

    Raises:
        DataError: if there are fewer than two, or a row has none.
    """
    if loaded.recipe.classification.labels:
        return loaded.recipe.classification.labels
    column = form.columns.label_column  # type: ignore[attr-defined]
    if column in source.classes:
        return source.classes[column]
    counts = Counter(for_each(source.rows, lambda row: form.answer(row.values)))
    if len(counts) < 2:
        raise DataError(
            Problem(source.name, f"only one class, `{next(iter(counts))}`", "a classifier needs two at least")
        )
    numeric = all(name.lstrip("-").isdigit() for name in counts)
    return tuple(sorted(counts, key=int) if numeric else sorted(counts))


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


def columns_record(columns: Columns) -> dict[str, Any]:
    """The columns as the manifest keeps them."""
    return asdict(columns)
