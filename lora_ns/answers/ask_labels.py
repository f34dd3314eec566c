"""Texts and sentences to label, in the tokens of a run, and the expected labels beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_ns.answers.label import Sentence
from lora_ns.answers.opened import Opened, format_of
from lora_ns.answers.weights import ADAPTER
from lora_ns.answers.work import Task, in_turn
from lora_ns.data.encode_labels import WordEncoder, make_encoder
from lora_ns.data.find_labels import check_named
from lora_ns.data.rows import Each, Row, for_each
from lora_ns.formats import Example, Format, Label, Labelled, Tagged, TextClassification, TokenClassification
from lora_ns.objectives.targets import Targets
from lora_ns.run.manifest import Manifest
from lora_ns.suites import GlueSuite, Gold

LABELLED_TOGETHER = 32
"""Batch size of an evaluation of labels."""


def labelling(
    opened: Opened, form: Format, rows: Sequence[Row], size: int, weights: str = ADAPTER, each: Each = for_each
) -> Task:
    """The task that labels the texts of rows, or tags their words.

    Args:
        opened: the run that is asked.
        form: the format of the rows.
        rows: the rows; labels in them are ignored.
        size: the batch size.
        weights: the weights to compute with.
        each: reads the rows one by one.

    Raises:
        DataError: names the rows that cannot be read.
    """
    limit = opened.manifest.recipe.objective.max_seq_length
    if isinstance(form, TokenClassification):
        tagger = WordEncoder(opened.tokenizer, limit, opened.vocabulary())
        sentences = each(rows, lambda row: _sentence(tagger, form.prompt(row.values)))
        return in_turn("tag", [sentence.as_json() for sentence in sentences], size, weights)
    encoder = make_encoder(form, opened.tokenizer, limit, opened.vocabulary())
    inputs = each(rows, lambda row: encoder.encode(form.prompt(row.values)).inputs)
    return in_turn("classify", inputs, size, weights)


def _sentence(encoder: WordEncoder, tagged: Example) -> Sentence:
    """The encoded sentence of a row. Raises `RowFaultError`."""
    assert isinstance(tagged, Tagged)
    return Sentence(list(tagged.words), encoder.encode(tagged))


def in_columns_of(suite: GlueSuite, manifest: Manifest, rows: Sequence[Row]) -> list[Row]:
    """The rows of a task with texts and labels as the run has them. Raises `DataError`."""
    form, labels = format_of(manifest), manifest.labels
    return for_each(rows, lambda row: Row(row.where, suite.in_columns_of(form, labels, row.values)))


def expected_labels(manifest: Manifest, rows: Sequence[Row]) -> list[Gold]:
    """The expected labels of rows: names of classes or tags, or scores. Raises `DataError`."""
    form, targets = format_of(manifest), Targets(manifest.labels)
    if isinstance(form, TokenClassification):
        return for_each(rows, lambda row: _tags(form.example(row.values), targets, row))
    assert isinstance(form, TextClassification)
    check_named(rows, form, rows[0].where)
    return for_each(
        rows,
        lambda row: Gold(
            row.where,
            None,
            row.values,
            question=_text(form.prompt(row.values)),
            label=_named(form.label(row.values), targets),
        ),
    )


def _tags(example: Tagged, targets: Targets, row: Row) -> Gold:
    tags = [targets.labels[targets.number(tag, "tag")] for tag in example.tags]
    return Gold(row.where, None, row.values, question=" ".join(example.words), label=tags)


def _named(label: Label, targets: Targets) -> Any:
    """A label by its name where rows have its number. Raises `RowFaultError`."""
    if isinstance(label, tuple):
        applies = targets.of(label)
        assert isinstance(applies, list)
        return [name for name, value in zip(targets.labels, applies, strict=True) if value]
    return targets.labels[targets.number(label)] if isinstance(label, str) else float(label)


def _text(example: Example) -> str | None:
    """The text to label, to show; both of a pair."""
    if not isinstance(example, Labelled):
        return None
    return example.text if example.text_pair is None else f"{example.text} | {example.text_pair}"
