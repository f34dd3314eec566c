"""The items of evaluation suites that the training rows hold, before and after training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from lora_ns.data.audit import Finding
from lora_ns.data.contamination import Dialogue, Item, Overlap, Turn, search
from lora_ns.data.rows import Row
from lora_ns.data.suite_rows import read_suite
from lora_ns.errors import DataError
from lora_ns.formats import (
    Conversation,
    Example,
    Format,
    Labelled,
    Message,
    Preference,
    PromptCompletion,
    RawText,
    RowFaultError,
    Tagged,
    expected_of,
)
from lora_ns.recipe.recipe import Recipe
from lora_ns.suites import ChoiceSuite, GlueSuite, Suite

LEAKED = "LEAK003"
"""Code of the finding."""

Passages = Iterable[tuple[str, Sequence[Dialogue]]]
"""Training rows with their places, as dialogues."""


def leaked_items(
    asked: Sequence[tuple[Suite, Sequence[Row]]], form: Format, training: Passages
) -> list[list[Overlap | None]]:
    """Search the rows of suites in the training rows; returns for each suite what was found for each of its rows."""
    return search([[_item(suite, form, row) for row in rows] for suite, rows in asked], training)


def leak_findings(
    recipe: Recipe, folder: Path, form: Format, usual: Sequence[Row], training: Passages
) -> Iterator[Finding]:
    """Yield a finding for each suite of a recipe with items in the training rows; unreadable suites are left out.

    Args:
        recipe: the recipe.
        folder: its folder.
        form: the format of its rows.
        usual: the evaluation rows, which suites without a file ask.
        training: the training rows.
    """
    asked: dict[str, tuple[Suite, Sequence[Row]]] = {}
    for number, suite in enumerate(recipe.evaluation.suites):
        if suite.asks == "itself":
            continue  # its items are known when they are asked
        key = f"evaluation.suites.{number}"
        try:
            asked[key] = (suite, read_suite(suite, key, recipe, folder) if suite.path else usual[: suite.max_samples])
        except DataError:
            continue  # reported by `suite_findings`
    found = leaked_items(list(asked.values()), form, training) if asked else []
    for (key, (_, rows)), overlaps in zip(asked.items(), found, strict=True):
        places = tuple(f"{row.where} (as {one.row})" for row, one in zip(rows, overlaps, strict=True) if one)
        if places:
            what = f"{key}: {len(places):,} of {len(rows):,} items are in the training rows"
            remedy = "remove them from one of the two; `lorans eval` also gives the figures without them"
            yield Finding(LEAKED, what, places, remedy)


def passages(rows: Iterable[Row], form: Format) -> Iterator[tuple[str, Sequence[Dialogue]]]:
    """Yield training rows as dialogues; `form` is the format of those without their own. Unreadable rows have none."""
    for row in rows:
        try:
            yield row.where, _dialogues((row.form or form).example(row.values))
        except RowFaultError:
            continue


def _item(suite: Suite, form: Format, row: Row) -> Item:
    """Return a row of a suite as training would see it; an item without words if it cannot be read."""
    if suite.asks == "itself":
        return Item((Turn(str(row.values["question"])),), str(row.values["answer"]))
    try:
        if isinstance(suite, ChoiceSuite):
            offered = suite.offered(row.values)
            question = offered.question
            asked = _last(form.prompt(row.values)) if question is None else (Turn(question),)
            return Item(asked, offered.texts[offered.right])
        values = suite.in_columns_of(form, (), row.values) if isinstance(suite, GlueSuite) else row.values
        try:
            dialogue = _last(form.example(values))
        except RowFaultError:
            dialogue = _last(form.prompt(values))
    except RowFaultError:
        return Item(())
    if dialogue and dialogue[-1].is_answer:
        return Item(dialogue[:-1], dialogue[-1].text)
    return Item(dialogue)


def _last(example: Example) -> Dialogue:
    """Return the dialogue with the expected answer."""
    return next(iter(_dialogues(expected_of(example))), ())


def _dialogues(example: Example) -> list[Dialogue]:
    """Return the texts of an example: one dialogue, or both of a preference pair. Labels are no part of them."""
    if isinstance(example, Preference):
        return [_turns(side) for side in example.sides]
    if isinstance(example, Labelled):
        return [tuple(Turn(text) for text in (example.text, example.text_pair) if text is not None)]
    if isinstance(example, Tagged):
        return [(Turn(" ".join(example.words)),)]
    shown = expected_of(example)
    if isinstance(shown, Conversation):
        return [_turns(shown)]
    if isinstance(shown, PromptCompletion):
        return [(Turn(shown.prompt), *([Turn(shown.completion, is_answer=True)] if shown.completion else []))]
    return [(Turn(shown.text),)] if isinstance(shown, RawText) else []


def _turns(conversation: Conversation) -> Dialogue:
    """Return the turns without those of the system, which many rows share."""
    return tuple(Turn(_text(turn), turn.role == "assistant") for turn in conversation.messages if turn.role != "system")


def _text(turn: Message) -> str:
    """Return the content of a turn, with its tool calls."""
    calls = turn.extra.get("tool_calls")
    return f"{turn.content or ''} {json.dumps(calls, default=str)}" if calls else turn.content or ""
