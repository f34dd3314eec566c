"""Formats with an instruction or a question in one column and the answer in another, read as conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Message, RowFaultError, Values
from lora_ns.formats.cells import Cells, answered, shown
from lora_ns.formats.chat import Chat, system_turn


@dataclass(frozen=True)
class Alpaca(Chat):
    """Instructions: `instruction` and `output`, optionally with `input`, `system`, `history` and `tools`."""

    name: ClassVar[str] = "alpaca"
    reads: ClassVar[tuple[str, ...]] = ("instruction", "input", "output", "system", "history", "tools")
    aliases: ClassVar[Mapping[str, str]] = {"context": "input", "response": "output"}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (("instruction", "output"), ("instruction", "response"))

    def question(self, text: str) -> Values:
        """A row with an instruction only."""
        return {self.columns.columns.get("instruction", "instruction"): text}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The system turn, the history, the instruction with its input, and the answer."""
        parts = (cells.text("instruction"), cells.optional_text("input"))
        question = Message("user", "\n\n".join(part for part in parts if part))
        prompt = (*system_turn(cells), *history_turns(cells), question)
        return (*prompt, _answer(cells, "output")) if with_answer else prompt


@dataclass(frozen=True)
class QuestionAnswer(Chat):
    """Questions: `question` and `answer`, or `query` and `response`, optionally with `system`, `history`, `tools`."""

    name: ClassVar[str] = "question-answer"
    reads: ClassVar[tuple[str, ...]] = ("question", "answer", "system", "history", "tools")
    aliases: ClassVar[Mapping[str, str]] = {
        "query": "question",
        "response": "answer",
        "human": "question",
        "assistant": "answer",
        "input": "question",
        "output": "answer",
    }
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("question", "answer"),
        ("query", "response"),
        ("query", "answer"),
        ("human", "assistant"),
    )
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = (("input", "output"),)

    def question(self, text: str) -> Values:
        """A row with a question only."""
        return {self.columns.columns.get("question", "question"): text}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The system turn, the history, the question and its answer."""
        prompt = (*system_turn(cells), *history_turns(cells), Message("user", cells.text("question")))
        return (*prompt, _answer(cells, "answer")) if with_answer else prompt


def _answer(cells: Cells, name: str) -> Message:
    return Message("assistant", answered(cells.text(name)))


def history_turns(cells: Cells) -> Iterator[Message]:
    """Yield the earlier rounds of a row, from its `history` column. Raises `RowFaultError`."""
    rounds, place = cells.get("history") or [], cells.own("history")
    if not isinstance(rounds, list):
        raise RowFaultError(f"`{place}` is {shown(rounds)} instead of a list of rounds", "`[[question, answer], ...]`")
    for number, pair in enumerate(rounds):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFaultError(f"`{place}[{number}]` is not a pair of texts", "write `[question, answer]`")
        yield Message("user", pair[0])
        yield Message("assistant", answered(pair[1]))
