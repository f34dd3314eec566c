"""The base class of formats whose rows become conversations."""

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
    """A format whose rows become conversations."""

    makes: ClassVar[tuple[type[Example], ...]] = (Conversation,)
    reads: ClassVar[tuple[str, ...]]
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """Columns of the data that the format reads."""
        return used_columns(self.columns, self.reads, names)

    @abstractmethod
    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The turns of a row, without its answer if `with_answer` is false and the format keeps it separate."""

    def tools(self, cells: Cells) -> tuple[Values, ...] | None:
        """The tools of a row."""
        return read_tools(cells)

    def example(self, values: Values) -> Conversation:
        """All turns of a row. The last one must be from the assistant."""
        cells = self._cells(values)
        messages = self.turns(cells, with_answer=True)
        if messages[-1].role != "assistant":
            what = f"the last turn has the role `{messages[-1].role}`"
            raise RowFaultError(what, "a training row must end with an assistant turn")
        _check_order(messages)
        return Conversation(messages, self.tools(cells))

    def prompt(self, values: Values) -> Conversation:
        """The turns of a row up to its last answer."""
        cells = self._cells(values)
        messages = self.turns(cells, with_answer=False)
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages:
            raise RowFaultError("no turn to answer", "add a user turn")
        return Conversation(messages, self.tools(cells))

    def answer(self, values: Values) -> str:
        """The text of the last turn."""
        last = self.example(values).messages[-1]
        if not last.content:
            raise RowFaultError("the answer is a tool call without text to compare with", "remove the row")
        return last.content

    def _cells(self, values: Values) -> Cells:
        return cells_of(values, self.columns)


def _check_order(messages: tuple[Message, ...]) -> None:
    """Refuse an order of turns that chat templates do not support. Raises `RowFaultError`."""
    roles = [message.role for message in messages]
    for number, (role, following) in enumerate(pairwise(roles), start=1):
        if role == following == "assistant":
            raise RowFaultError(f"turns {number - 1} and {number} are both from the assistant", "join them")
        if following == "system":
            raise RowFaultError(f"turn {number} is a system turn", "a system turn must come first")


def system_turn(cells: Cells) -> tuple[Message, ...]:
    """The system turn from a `system` column, if it is not empty."""
    system = cells.optional_text("system")
    return (Message("system", system),) if system else ()
