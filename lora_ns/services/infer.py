"""Inference: rows in, the same rows with an answer, a label or tags out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.engine.labelled import WordEncoder, make_encoder
from lora_ns.engine.render import make_renderer
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Example, RowFaultError, Tagged, TokenClassification
from lora_ns.formats.tokens import entities, has_scheme
from lora_ns.recipe.generation import Generation
from lora_ns.rows import Row, for_each
from lora_ns.rundir import Manifest
from lora_ns.services.tasks import Compute, compute_here, in_turn, writing
from lora_ns.services.trained import Opened, format_of


@dataclass(frozen=True)
class InferResult:
    """The rows in their order, each with what the model said."""

    rows: tuple[dict[str, Any], ...]


def as_row(opened: Opened, text: str) -> Row:
    """The row that a bare text stands for. Raises `DataError` where one text is not enough."""
    try:
        return Row("input", format_of(opened.manifest).question(text))
    except RowFaultError as fault:
        raise DataError(Problem("input", fault.what, fault.remedy)) from None


def infer(opened: Opened, rows: Sequence[Row], generation: Generation, compute: Compute | None = None) -> InferResult:
    """Answer, label or tag every row.

    Args:
        opened: the run.
        rows: rows of the kind that the run was trained on; an answer in them is left aside.
        generation: how to write.
        compute: where it is computed, if not in this process.

    Raises:
        DataError: with the rows that cannot be rendered or leave no room for an answer; nothing is answered then.
    """
    compute = compute or compute_here(opened)
    if opened.manifest.recipe.task_type != "CAUSAL_LM":
        return InferResult(tuple(_label(opened, rows, generation.batch_size, compute)))
    (answers,) = compute([writing(prompts(opened, rows), generation)])
    return InferResult(
        tuple(
            {
                **_given(opened.manifest, row),
                "output": answer["text"],
                "finish_reason": answer["finish_reason"],
                "prompt_tokens": answer["prompt_tokens"],
                "output_tokens": answer["output_tokens"],
            }
            for row, answer in zip(rows, answers, strict=True)
        )
    )


def _label(opened: Opened, rows: Sequence[Row], batch_size: int, compute: Compute) -> list[dict[str, Any]]:
    """The rows with what the model says of them. Raises `DataError`."""
    form = format_of(opened.manifest)
    limit = opened.manifest.recipe.classification.max_seq_length
    if isinstance(form, TokenClassification):
        tagger = WordEncoder(opened.tokenizer, limit, opened.vocabulary())
        sentences = for_each(rows, lambda row: _words(tagger, form.prompt(row.values)))
        (tags,) = compute([in_turn("tag", sentences, batch_size)])
        return [_tagged(form, row, words, found) for row, words, found in zip(rows, sentences, tags, strict=True)]
    encoder = make_encoder(form, opened.tokenizer, limit, opened.vocabulary())
    inputs = for_each(rows, lambda row: encoder.encode(form.prompt(row.values)).inputs)
    (said,) = compute([in_turn("classify", inputs, batch_size)])
    return [{**row.values, **found} for row, found in zip(rows, said, strict=True)]


def _words(encoder: WordEncoder, sentence: Example) -> list[str]:
    """The words of a sentence that the model can be asked with. Raises `RowFaultError`."""
    assert isinstance(sentence, Tagged)
    if encoder.vocabulary.beyond:
        encoder.encode(sentence)
    return list(sentence.words)


def _tagged(
    form: TokenClassification, row: Row, words: Sequence[str], found: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    """A row with its tags and entities; tags that it had under that name are kept as `expected_tags`."""
    tags = [tag for tag, _ in found]
    named = [
        {
            "type": entity.type,
            "start": entity.start,
            "end": entity.end,
            "text": " ".join(words[entity.start : entity.end]),
            "score": sum(score for _, score in found[entity.start : entity.end]) / (entity.end - entity.start),
        }
        for entity in (entities(tags) if has_scheme(tags) else [])
    ]
    kept = {("expected_tags" if name == "tags" else name): value for name, value in row.values.items()}
    given = {form.word_column: list(words), **kept}
    return {**given, "tags": tags, "entities": named}


WRITTEN = {
    "CAUSAL_LM": ("output", "finish_reason", "prompt_tokens", "output_tokens"),
    "SEQ_CLS": ("output", "score", "scores"),
    "TOKEN_CLS": ("entities",),
}
"""The columns that answers are written to."""


def check_columns(manifest: Manifest, rows: Sequence[Row]) -> None:
    """Refuse rows whose own columns an answer would replace. Raises `DataError`."""
    written = WRITTEN[manifest.recipe.task_type]
    if manifest.problem_type == "regression":
        written = ("output",)  # a score has neither a probability nor the scores of classes
    for row in rows:
        own = _given(manifest, row)
        if len(own) < len(row.values):
            raise DataError(Problem(row.where, "column `expected` would be replaced by `output`", "rename it"))
        if taken := [name for name in written if name in own]:
            what = f"column `{taken[0]}` would be replaced by what the model says"
            raise DataError(Problem(row.where, what, "rename it"))


def _given(manifest: Manifest, row: Row) -> Mapping[str, Any]:
    """What a row has beside the answer; Alpaca's rows have their own where the model's is to stand."""
    if manifest.data.format != "alpaca":
        return row.values
    return {("expected" if name == "output" else name): value for name, value in row.values.items()}


def prompts(opened: Opened, rows: Sequence[Row]) -> list[list[int]]:
    """The tokens that the model is asked with, row by row. Raises `DataError`."""
    form = format_of(opened.manifest)
    manifest = opened.manifest
    renderer = make_renderer(opened.tokenizer, manifest.stop_token_ids, manifest.recipe.sft, opened.vocabulary())
    room = opened.room()

    def prompt_of(row: Row) -> list[int]:
        prompt = renderer.prompt(form.prompt(row.values))  # type: ignore[arg-type]
        if not prompt:
            raise RowFaultError("the prompt is empty", "give it some text")
        if room and len(prompt) >= room:
            raise RowFaultError(f"the prompt has {len(prompt)} tokens, and the model {room} positions", "shorten it")
        return prompt

    return for_each(rows, prompt_of)
