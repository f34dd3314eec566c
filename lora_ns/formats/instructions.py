"""Instructions and questions with their answers in columns of their own, as conversations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Message, RowFaultError, Values
from lora_ns.formats.cells import Cells, answered, shown
from lora_ns.formats.chat import Chat, system_turn


@dataclass(frozen=True)
class Alpaca(Chat):
    """Instructions: `instruction`, perhaps `input`, `system` and `history`, and `output`."""

    name: ClassVar[str] = "alpaca"
    reads: ClassVar[tuple[str, ...]] = ("instruction", "input", "output", "system", "history", "tools")
    aliases: ClassVar[Mapping[str, str]] = {"context": "input", "response": "output"}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (("instruction", "output"), ("instruction", "response"))

    def question(self, text: str) -> Values:
        """An instruction alone."""
        return {self.columns.columns.get("instruction", "instruction"): text}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The system turn, earlier rounds, the instruction with its input, and the answer."""
        parts = (cells.text("instruction"), cells.optional_text("input"))
        asked = (*system_turn(cells), *_history(cells), Message("user", "\n\n".join(part for part in parts if part)))
        return (*asked, _answer(cells, "output")) if with_answer else asked


@dataclass(frozen=True)
class QuestionAnswer(Chat):
    """Questions: `question` and `answer`, or `query` and `response`, perhaps with `system`, `history` and `tools`."""

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
        """The question."""
        return {self.columns.columns.get("question", "question"): text}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The system turn, earlier rounds, the question and its answer."""
        asked = (*system_turn(cells), *_history(cells), Message("user", cells.text("question")))
        return (*asked, _answer(cells, "answer")) if with_answer else asked


def _answer(cells: Cells, name: str) -> Message:
    return Message("assistant", answered(cells.text(name)))


def _history(cells: Cells) -> Iterator[Message]:
    rounds, place = cells.get("history") or [], cells.own("history")
    if not isinstance(rounds, list):
        raise RowFaultError(f"`{place}` is {shown(rounds)} instead of a list of rounds", "`[[question, answer], ...]`")
    for number, pair in enumerate(rounds):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowFaultError(f"`{place}[{number}]` is no question with its answer", "write `[question, answer]`")
        yield Message("user", pair[0])
        yield Message("assistant", answered(pair[1]))
