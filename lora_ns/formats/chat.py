"""What all rows that become conversations have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from lora_ns.formats.base import Columns, Conversation, Example, Message, RowFaultError, Values
from lora_ns.formats.cells import Cells, cells_of, used_columns
from lora_ns.formats.turns import read_tools


@dataclass(frozen=True)
class Chat(ABC):
    """Rows that become conversations."""

    makes: ClassVar[tuple[type[Example], ...]] = (Conversation,)
    reads: ClassVar[tuple[str, ...]]
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """The columns that are there of those that the format reads."""
        return used_columns(self.columns, self.reads, names)

    @abstractmethod
    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The turns of a row; without its answer where the format can tell it from the rest."""

    def tools(self, cells: Cells) -> tuple[Values, ...] | None:
        """The tools of a row."""
        return read_tools(cells)

    def example(self, values: Values) -> Conversation:
        """All turns; the last one is the assistant's."""
        cells = self._cells(values)
        messages = self.turns(cells, with_answer=True)
        if messages[-1].role != "assistant":
            what = f"the last turn is {messages[-1].role}'s"
            raise RowFaultError(what, "a row to learn from ends with an assistant turn")
        _check_order(messages)
        return Conversation(messages, self.tools(cells))

    def prompt(self, values: Values) -> Conversation:
        """The turns before the last answer."""
        cells = self._cells(values)
        messages = self.turns(cells, with_answer=False)
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages:
            raise RowFaultError("no turn to answer", "give a user turn")
        return Conversation(messages, self.tools(cells))

    def answer(self, values: Values) -> str:
        """The text of the last turn."""
        last = self.example(values).messages[-1]
        if not last.content:
            raise RowFaultError("the answer is a tool call, and no text to compare with", "leave the row out")
        return last.content

    def _cells(self, values: Values) -> Cells:
        return cells_of(values, self.columns)


def _check_order(messages: tuple[Message, ...]) -> None:
    """Turns that no template would show as they were meant. Raises `RowFaultError`."""
    roles = [message.role for message in messages]
    for number, (role, following) in enumerate(pairwise(roles), start=1):
        if role == following == "assistant":
            raise RowFaultError(f"turns {number - 1} and {number} are both the assistant's", "join them into one")
        if following == "system":
            raise RowFaultError(f"turn {number} is the system's", "a system turn comes first")


def system_turn(cells: Cells) -> tuple[Message, ...]:
    """The system turn that a `system` column stands for; none where it is empty."""
    system = cells.optional_text("system")
    return (Message("system", system),) if system else ()
