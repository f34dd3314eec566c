"""Inference: adds an answer, a label or tags to each row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.answers.ask_labels import labelling
from lora_ns.answers.opened import Opened, format_of
from lora_ns.answers.work import Compute, Task, compute_here, in_turn, writing
from lora_ns.data.files.json import JsonLines
from lora_ns.data.files.packing import kind_of
from lora_ns.data.render import make_renderer
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.formats import (
    RowFaultError,
    TextClassification,
    TokenClassification,
    ends_answered,
    find_unasked,
    find_unused,
)
from lora_ns.formats.cells import listed
from lora_ns.formats.preference import PreferencePairs
from lora_ns.formats.tokens import entities, has_scheme
from lora_ns.objectives.pairs import PairObjective
from lora_ns.recipe.generation import Generation
from lora_ns.run.manifest import Manifest


@dataclass(frozen=True)
class InferResult:
    """The rows in their original order, each with the model's output."""

    rows: tuple[dict[str, Any], ...]


def as_row(opened: Opened, text: str) -> Row:
    """Build the row for a single text. Raises `DataError` if the run's format needs more than one text."""
    try:
        return Row("input", format_of(opened.manifest).question(text))
    except RowFaultError as fault:
        raise DataError(Problem("input", fault.what, fault.remedy)) from None


Keep = Callable[[int, dict[str, Any]], None]
"""Called with each row as soon as it is answered: its index, and the row."""


def infer(
    opened: Opened,
    rows: Sequence[Row],
    generation: Generation,
    compute: Compute | None = None,
    keep: Keep = lambda *_: None,
) -> InferResult:
    """Answer, label or tag every row.

    Args:
        opened: the run.
        rows: rows in the run's format; answers in them are ignored.
        generation: the generation settings.
        compute: computes the tasks; by default, in this process.
        keep: called with rows as they are answered, in batches of similar length.

    Raises:
        DataError: names the rows that cannot be rendered or leave no room for an answer; no row is answered then.
    """
    compute = compute or compute_here(opened)
    task, answered = _asked(opened, rows, generation)
    (found,) = compute([task], lambda _, place, one: keep(place, answered(place, one)))
    return InferResult(tuple(answered(place, one) for place, one in enumerate(found)))


Answered = Callable[[int, Any], dict[str, Any]]
"""Builds the output row from the index of a row and its result."""


def _asked(opened: Opened, rows: Sequence[Row], generation: Generation) -> tuple[Task, Answered]:
    """The inference task for rows, and the function that builds an output row. Raises `DataError`."""
    form, own = format_of(opened.manifest), _answer_column(opened.manifest)
    if opened.manifest.recipe.objective.writes_text:
        return writing(prompts(opened, rows), generation), lambda place, answer: {
            **_given(rows[place], own),
            "output": answer["text"],
            "finish_reason": answer["finish_reason"],
            "prompt_tokens": answer["prompt_tokens"],
            "output_tokens": answer["output_tokens"],
        }
    size = generation.batch_size
    if isinstance(form, PreferencePairs):
        names = opened.manifest.recipe.objective.writes
        return in_turn("score", _scored(opened, form, rows), size), lambda place, found: {
            **rows[place].values,
            **dict(zip(names, found, strict=False)),
        }
    task = labelling(opened, form, rows, size)
    if isinstance(form, TokenClassification):
        return task, lambda place, found: _tagged(form, rows[place], task.items[place]["words"], found)
    return task, lambda place, found: {**_given(rows[place], own), **found}


def _tagged(
    form: TokenClassification, row: Row, words: Sequence[str], found: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    """A row with its predicted tags and entities; its own `tags`, if any, become `expected_tags`."""
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


def check_answers(output: Path, input_file: Path | None) -> None:
    """Refuse to overwrite the input file with answers, unless it is JSON Lines too. Raises `UsageError`.

    Answers keep all columns of a JSON Lines file, so such a file can be replaced with `--overwrite`.
    """
    kind, packing = kind_of(input_file) if input_file else ("", "")
    if input_file is None or (kind in JsonLines.suffixes and not packing):
        return
    if os.path.realpath(output) == os.path.realpath(input_file):
        what = "is the input file, and answers are written as JSON Lines"
        raise UsageError(Problem(str(output), what, "choose another file, such as one that ends in .jsonl"))


def check_columns(manifest: Manifest, rows: Sequence[Row]) -> None:
    """Refuse rows with columns that an answer would replace. Raises `DataError`."""
    written, answer = _written(manifest), _answer_column(manifest)
    for row in rows:
        own = _given(row, answer)
        if len(own) < len(row.values):
            raise DataError(Problem(row.where, f"column `expected` would be replaced by `{answer}`", "rename it"))
        if taken := [name for name in written if name in own]:
            what = f"column `{taken[0]}` would be replaced by the model's output"
            raise DataError(Problem(row.where, what, "rename it"))


def unasked_note(manifest: Manifest, rows: Sequence[Row], name: str) -> str | None:
    """A note about columns that are not part of the input, such as labels; None if there are none.

    Args:
        manifest: the run's manifest.
        rows: all input rows.
        name: name of their source in messages.
    """
    form, values = format_of(manifest), [row.values for row in rows]
    if isinstance(form, PreferencePairs) and not manifest.recipe.objective.writes_text:
        found = list(find_unused(form, form.columns, values).columns)
    else:
        found = find_unasked(form, values)
    if not found:
        is_answered = ends_answered(form, values)
        return f"{name}: not used as input: the answers at the end of the conversations" if is_answered else None
    kept = dict.fromkeys(found) | {
        column: f" as `{new}`" for column, new in _renamed(manifest).items() if column in found
    }
    columns = ", ".join(f"`{column}`{new or ''}" for column, new in kept.items())
    return f"{name}: not used as input: {listed(found)}; `-o` and `--json` keep {columns}"


def _renamed(manifest: Manifest) -> dict[str, str]:
    """Columns that are renamed because the model's output takes their name, with the new names."""
    form, answer = format_of(manifest), _answer_column(manifest)
    if isinstance(form, TokenClassification):
        return {"tags": "expected_tags"}
    return {answer: "expected"} if answer else {}


def _written(manifest: Manifest) -> tuple[str, ...]:
    """The output columns; regression has neither a probability nor scores of classes."""
    return ("output",) if manifest.problem_type == "regression" else manifest.recipe.objective.writes


def _answer_column(manifest: Manifest) -> str | None:
    """The column of the rows' own answers, if the model's output has the same name; otherwise None."""
    form = format_of(manifest)
    column = form.columns.label_column if isinstance(form, TextClassification) else "output"
    is_answer = isinstance(form, TextClassification) or column in form.reads
    return column if is_answer and column in _written(manifest) else None


def _given(row: Row, answer: str | None) -> Mapping[str, Any]:
    """The columns of a row, with its own answer renamed to `expected` if the output needs that name."""
    return {("expected" if name == answer else name): value for name, value in row.values.items()}


def _scored(opened: Opened, form: PreferencePairs, rows: Sequence[Row]) -> list[list[list[int]]]:
    """The sequences to score of each row, as token ids: one for each of its answers. Raises `DataError`."""
    manifest, objective, room = opened.manifest, opened.manifest.recipe.objective, opened.room()
    assert isinstance(objective, PairObjective)
    renderer = make_renderer(opened.tokenizer, manifest.stop_token_ids, objective.rendering, opened.vocabulary())

    def sequences_of(row: Row) -> list[list[int]]:
        found: list[list[int]] = []
        for conversation in form.answered(row.values):
            ids = objective.sequence(conversation, renderer).input_ids
            if room and len(ids) > room:
                raise RowFaultError(f"the row has {len(ids)} tokens, and the model {room} positions", "shorten it")
            found.append(ids)
        return found

    return for_each(rows, sequences_of)


def prompts(opened: Opened, rows: Sequence[Row]) -> list[list[int]]:
    """The prompt of each row, as token ids. Raises `DataError`."""
    form, manifest = format_of(opened.manifest), opened.manifest
    rendering = manifest.recipe.objective.rendering
    renderer = make_renderer(opened.tokenizer, manifest.stop_token_ids, rendering, opened.vocabulary())
    room = opened.room()

    def prompt_of(row: Row) -> list[int]:
        prompt = renderer.prompt(form.prompt(row.values))  # type: ignore[arg-type]
        if not prompt:
            raise RowFaultError("the prompt is empty", "add some text")
        if room and len(prompt) >= room:
            raise RowFaultError(f"the prompt has {len(prompt)} tokens, and the model {room} positions", "shorten it")
        return prompt

    return for_each(rows, prompt_of)
