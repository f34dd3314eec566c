"""The format of labelled completions: a prompt with one answer, and whether the answer is desirable."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Columns, Conversation, Example, LabelledCompletion, RowFaultError, Values
from lora_ns.formats.cells import Cells, cells_of, shown, used_columns
from lora_ns.formats.preference import (
    CONVERSATIONS,
    Turns,
    context_turns,
    turns_of,
    unanswered,
    whole_conversation,
)

_WAYS = 'write `prompt`, `completion` and `label`, or map the columns, such as `columns = {completion = "..."}`'

_LABELS = "write true for an answer to prefer, false for one to avoid"


@dataclass(frozen=True)
class LabelledCompletions:
    """Labelled answers: `label` is true or false, and the answer a `completion` or the last turn of a conversation."""

    name: ClassVar[str] = "labelled-completion"
    makes: ClassVar[tuple[type[Example], ...]] = (LabelledCompletion,)
    reads: ClassVar[tuple[str, ...]] = (
        *("prompt", "completion", "label", "system", "history", "tools"),
        *("messages", "conversations", "instruction", "input"),
    )
    aliases: ClassVar[Mapping[str, str]] = {
        "kto_tag": "label",
        "question": "prompt",
        "query": "prompt",
        "response": "completion",
        "output": "completion",
    }
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """The answer, its label, and the columns of the prompt."""
        return used_columns(self.columns, self.reads, names)

    def example(self, values: Values) -> LabelledCompletion:
        """The conversation, whose last answer alone is learned, with its label."""
        cells = cells_of(values, self.columns)
        prompt, completion = _divided(cells)
        return LabelledCompletion(whole_conversation(prompt, completion, cells), _label(cells))

    def prompt(self, values: Values) -> Conversation:
        """The conversation before the answer."""
        return unanswered(cells_of(values, self.columns))

    def question(self, text: str) -> Values:
        """A row with a prompt only."""
        return {self.columns.columns.get("prompt", "prompt"): text}

    def answer(self, values: Values) -> str:
        """The text of a desirable answer. Raises `RowFaultError` for an undesirable one."""
        cells = cells_of(values, self.columns)
        if not _label(cells):
            what = f"`{cells.own('label')}` is false, so the answer is not the one to expect"
            raise RowFaultError(what, "measure exact match on rows with desirable answers")
        return _divided(cells)[1][-1].content


def _divided(cells: Cells) -> tuple[Turns, Turns]:
    """The prompt and the answer of a row. Raises `RowFaultError`."""
    if cells.has("completion"):
        prompt, completion = context_turns(cells), turns_of(cells, "completion")
        for turn, place in ((completion[0], "begins"), (completion[-1], "ends")):
            if turn.role != "assistant":
                what = f"`{cells.own('completion')}` {place} with a {turn.role} turn"
                raise RowFaultError(what, f"it must {place[:-1]} with an assistant turn")
    else:
        column = next((name for name in CONVERSATIONS if cells.has(name)), None)
        if column is None:
            raise RowFaultError(f"no column `{cells.own('completion')}`", _WAYS)
        whole = context_turns(cells)
        if whole[-1].role != "assistant":
            what = f"`{cells.own(column)}` ends with a {whole[-1].role} turn"
            raise RowFaultError(what, "end it with the answer that `label` judges")
        prompt, completion = whole[:-1], whole[-1:]
    if not prompt or prompt[-1].role == "assistant":
        what = "the answer follows another answer" if prompt else "the answer has no prompt"
        raise RowFaultError(what, "write a user turn before it")
    return prompt, completion


def _label(cells: Cells) -> bool:
    """The label of a row: true or false, or 1 or 0. Raises `RowFaultError`."""
    own = cells.own("label")
    if not cells.has("label"):
        raise RowFaultError(f"no column `{own}`", _LABELS)
    value = cells.get("label")
    if isinstance(value, bool) or (isinstance(value, int | float) and value in {0, 1}):
        return bool(value)
    raise RowFaultError(f"`{own}` is {shown(value)} instead of true or false", _LABELS)
