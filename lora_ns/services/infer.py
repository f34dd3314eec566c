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
from lora_ns.data.rows import Each, Outcome, Row, Tolerant, for_each
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
    failed: int = 0
    """Rows with an error in place of an answer."""


def as_row(opened: Opened, text: str, where: str = "input") -> Row:
    """Build the row for a single text. Raises `DataError` if the run's format needs more than one text."""
    try:
        return Row(where, format_of(opened.manifest).question(text))
    except RowFaultError as fault:
        raise DataError(Problem(where, fault.what, fault.remedy)) from None


Keep = Callable[[int, dict[str, Any]], None]
"""Called with each row as soon as it is answered: its index, and the row."""


def infer(
    opened: Opened,
    rows: Sequence[Outcome],
    generation: Generation,
    compute: Compute | None = None,
    keep: Keep = lambda *_: None,
    tolerant: bool = False,
) -> InferResult:
    """Answer, label or tag every row.

    Args:
        opened: the run.
        rows: rows in the run's format; answers in them are ignored. With `tolerant`, also problems of unreadable ones.
        generation: the generation settings.
        compute: computes the tasks; by default, in this process.
        keep: called with rows as they are answered, in batches of similar length.
        tolerant: whether a row that cannot be answered becomes a row with an error.

    Raises:
        DataError: names the rows that cannot be rendered or leave no room for an answer; no row is answered then.
    """
    compute = compute or compute_here(opened)
    asked = questions(opened, rows, generation, tolerant)
    done = {place: _faulty(rows[place], fault) for place, fault in asked.faults.items()}
    for place, row in done.items():
        keep(place, row)

    def whole(item: int, found: Any) -> dict[str, Any]:
        given, output = asked.answer(item, found)
        return {**given, **output}

    (answers,) = compute([asked.task], lambda _, item, found: keep(asked.places[item], whole(item, found)))
    done |= {place: whole(item, answers[item]) for item, place in enumerate(asked.places)}
    return InferResult(tuple(done[place] for place in range(len(rows))), len(asked.faults))


def error_of(fault: Problem) -> dict[str, str]:
    """A problem as the value of the column `error`."""
    return {"where": fault.where, "what": fault.what, "remedy": fault.remedy}


def _faulty(row: Outcome, fault: Problem) -> dict[str, Any]:
    """A row with the reason why it has no answer; of an unreadable one there is nothing else."""
    return {**(row.values if isinstance(row, Row) else {}), "error": error_of(fault)}


@dataclass(frozen=True)
class Questions:
    """The rows as a run is asked them."""

    task: Task
    places: Sequence[int]
    """The index of the row of each item of the task."""
    faults: Mapping[int, Problem]
    """The rows that cannot be asked, by index."""
    answer: Callable[[int, Any], tuple[Mapping[str, Any], dict[str, Any]]]
    """The columns of a row, and what the model adds to them, from the index of its item and the item's result."""


def questions(opened: Opened, rows: Sequence[Outcome], generation: Generation, tolerant: bool = False) -> Questions:
    """Render rows for a run; arguments and errors as in `infer`."""
    readable = [place for place, row in enumerate(rows) if isinstance(row, Row)]
    found = [row for row in rows if isinstance(row, Row)]
    faults = {place: row for place, row in enumerate(rows) if isinstance(row, Problem)}
    each = Tolerant() if tolerant else for_each
    task, answer = _asked(opened, found, generation, each)
    if not isinstance(each, Tolerant):
        return Questions(task, readable, faults, lambda item, one: answer(found[item], item, one))
    faults |= {readable[number]: fault for number, fault in each.faults.items()}
    good = [number for number in range(len(found)) if number not in each.faults]
    places = [readable[number] for number in good]
    return Questions(task, places, faults, lambda item, one: answer(found[good[item]], item, one))


Answered = Callable[[Row, int, Any], tuple[Mapping[str, Any], dict[str, Any]]]
"""Returns the columns of a row and what the model adds to them, from the row, the index of its item, and the result."""


def _asked(opened: Opened, rows: Sequence[Row], generation: Generation, each: Each) -> tuple[Task, Answered]:
    """The inference task for rows, and the function that builds an output row. Raises `DataError`."""
    form, own = format_of(opened.manifest), _answer_column(opened.manifest)
    if opened.manifest.recipe.objective.writes_text:
        return writing(prompts(opened, rows, each), generation), lambda row, _, found: (
            _given(row, own),
            _written_by(found),
        )
    size = generation.batch_size
    if isinstance(form, PreferencePairs):
        names = opened.manifest.recipe.objective.writes
        task = in_turn("score", _scored(opened, form, rows, each), size)
        return task, lambda row, _, found: (row.values, dict(zip(names, found, strict=False)))
    task = labelling(opened, form, rows, size, each=each)
    if isinstance(form, TokenClassification):
        return task, lambda row, item, found: _tagged(form, row, task.items[item]["words"], found)
    return task, lambda row, _, found: (_given(row, own), dict(found))


def _written_by(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a generated answer."""
    counts = {name: answer[name] for name in ("finish_reason", "prompt_tokens", "output_tokens")}
    return {"output": answer["text"], **counts}


def _tagged(
    form: TokenClassification, row: Row, words: Sequence[str], found: Sequence[tuple[str, float]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row, and its predicted tags and entities; its own `tags`, if any, become `expected_tags`."""
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
    return {form.word_column: list(words), **kept}, {"tags": tags, "entities": named}


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


def check_columns(
    manifest: Manifest, rows: Sequence[Outcome], tolerant: bool = False, written: Sequence[str] = ()
) -> None:
    """Refuse rows with columns that an answer would replace.

    Args:
        manifest: the run's manifest.
        rows: the rows.
        tolerant: whether rows may get the column `error`.
        written: the columns of the output, if they are not those of the run.

    Raises:
        DataError: naming the row and the column.
    """
    names = (*(written or _written(manifest)), *(("error",) if tolerant else ()))
    answer = None if written else _answer_column(manifest)
    for row in rows:
        if not isinstance(row, Row):
            continue
        own = _given(row, answer)
        if len(own) < len(row.values):
            raise DataError(Problem(row.where, f"column `expected` would be replaced by `{answer}`", "rename it"))
        if taken := [name for name in names if name in own]:
            what = f"column `{taken[0]}` would be replaced by the model's output"
            raise DataError(Problem(row.where, what, "rename it"))


def unasked_note(manifest: Manifest, rows: Sequence[Outcome], name: str) -> str | None:
    """A note about columns that are not part of the input, such as labels; None if there are none.

    Args:
        manifest: the run's manifest.
        rows: all input rows.
        name: name of their source in messages.
    """
    form, values = format_of(manifest), [row.values for row in rows if isinstance(row, Row)]
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


def _scored(opened: Opened, form: PreferencePairs, rows: Sequence[Row], each: Each) -> list[list[list[int]]]:
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

    return each(rows, sequences_of)


def prompts(opened: Opened, rows: Sequence[Row], each: Each = for_each) -> list[list[int]]:
    """The prompt of each row, as token ids, read by `each`. Raises `DataError`."""
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

    return each(rows, prompt_of)
