"""The format of prompts: a conversation for the model to continue, and any columns that its answer is judged by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Columns, Conversation, Example, Message, Prompt, RowFaultError, Values
from lora_ns.formats.cells import Cells, cells_of, fill, fill_first, fill_single_field, shown
from lora_ns.formats.preference import Turns, context_turns, turns_of
from lora_ns.formats.turns import read_tools


@dataclass(frozen=True)
class Prompts:
    """Prompts: a text or turns in `prompt`, a question, or a conversation whose last answer is the reference answer.

    Every other column is kept for the reward functions.
    """

    name: ClassVar[str] = "prompt"
    makes: ClassVar[tuple[type[Example], ...]] = (Prompt,)
    reads: ClassVar[tuple[str, ...]] = (
        *("prompt", "answer", "system", "history", "tools"),
        *("messages", "conversations", "instruction", "input"),
    )
    aliases: ClassVar[Mapping[str, str]] = {
        "question": "prompt",
        "query": "prompt",
        "problem": "prompt",
        "completion": "answer",
        "response": "answer",
        "output": "answer",
        "solution": "answer",
        "ground_truth": "answer",
        "target": "answer",
    }
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ("prompt_template", "fallback_prompt_templates", "system_template")

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """All columns: those that the prompt does not need are for the reward functions."""
        return [name for name in names if name not in self.columns.ignore_columns]

    def example(self, values: Values) -> Prompt:
        """The prompt with its reference answer, if the row has one."""
        cells = cells_of(values, self.columns)
        turns, answer = self._divided(cells)
        kept = {name: value for name, value in values.items() if name not in self.columns.ignore_columns}
        return Prompt(Conversation(turns, read_tools(cells)), answer, kept)

    def prompt(self, values: Values) -> Conversation:
        """The conversation before the answer."""
        cells = cells_of(values, self.columns)
        return Conversation(self._divided(cells)[0], read_tools(cells))

    def question(self, text: str) -> Values:
        """A row with a prompt only."""
        if self.columns.prompt_template is not None:
            return fill_single_field(self.columns.prompt_templates, text)
        return {self.columns.columns.get("prompt", "prompt"): text}

    def answer(self, values: Values) -> str:
        """The reference answer. Raises `RowFaultError` if the row has none."""
        cells = cells_of(values, self.columns)
        found = self._divided(cells)[1]
        if found is None:
            what = f"no column `{cells.own('answer')}`, so there is no answer to expect"
            raise RowFaultError(what, 'map it with `columns = {answer = "..."}`')
        return found

    def _divided(self, cells: Cells) -> tuple[Turns, str | None]:
        """The turns of the prompt, and the reference answer. Raises `RowFaultError`."""
        turns = self._turns(cells)
        answer = _answer(cells)
        if len(turns) > 1 and turns[-1].role == "assistant":
            if answer is None:
                answer = turns[-1].content
            turns = turns[:-1]
        if not turns or turns[-1].role == "assistant":
            raise RowFaultError("the prompt ends with an answer", "end it with a user turn")
        return turns, answer

    def _turns(self, cells: Cells) -> Turns:
        columns = self.columns
        if columns.prompt_template is None:
            return context_turns(cells)
        system = columns.system_template
        first = () if system is None else (Message("system", fill(system, cells.values)),)
        return (*first, Message("user", fill_first(columns.prompt_templates, cells.values)))


def _answer(cells: Cells) -> str | None:
    """The text of the answer column; None if the row has none. Raises `RowFaultError`."""
    if not cells.has("answer") or cells.get("answer") is None:
        return None
    value = cells.get("answer")
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return turns_of(cells, "answer")[-1].content
    if isinstance(value, list | Mapping):
        what = f"`{cells.own('answer')}` is {shown(value)} instead of a text or a number"
        raise RowFaultError(what, "name the column of a reward with `column`, and leave this one out")
    return cells.text("answer") if not isinstance(value, bool) else str(value).lower()
