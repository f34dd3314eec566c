"""The message trees of Open Assistant: the replies that people ranked best form one conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_ns.formats.base import Message, RowFaultError, Values
from lora_ns.formats.cells import Cells, answered, shown
from lora_ns.formats.chat import Chat

_ROLES = {"prompter": "user", "assistant": "assistant"}


_SHAPE = 'write `{"role": "prompter", "text": ..., "replies": [{"role": "assistant", ...}]}`'


@dataclass(frozen=True)
class MessageTrees(Chat):
    """Message trees: `prompt` is a message with `replies`, each of which may have replies in turn.

    From each message, the conversation continues with the reply of the lowest `rank`, as in
    `OpenAssistant/oasst_top1_2023-08-25`. Messages that are deleted or failed their review are skipped.
    """

    name: ClassVar[str] = "oasst"
    reads: ClassVar[tuple[str, ...]] = ("prompt",)
    aliases: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (("message_tree_id", "prompt"),)

    def question(self, text: str) -> Values:
        """A tree of a single prompt."""
        return {self.columns.columns.get("prompt", "prompt"): {"role": "prompter", "text": text}}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The turns along the best replies. For training, a last question without an answer is dropped."""
        turns = list(_best(cells.get("prompt"), cells.own("prompt")))
        while with_answer and turns and turns[-1].role != "assistant":
            turns.pop()
        if with_answer and not turns:
            raise RowFaultError(f"`{cells.own('prompt')}` has no answer", "remove the row")
        return tuple(turns)

    def tools(self, cells: Cells) -> None:
        """Message trees have no tools."""


def _best(message: Any, place: str) -> Iterator[Message]:
    """A message and the best-ranked reply at each level below it."""
    while message is not None:
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise RowFaultError(f"`{place}` is {shown(message)} instead of a message", _SHAPE)
        text, role = message.get("text"), _ROLES[message["role"]]
        if not isinstance(text, str):
            raise RowFaultError(f"`{place}.text` is {shown(text)} instead of text")
        yield Message(role, answered(text) if role == "assistant" else text)
        replies, place = message.get("replies") or [], f"{place}.replies"
        if not isinstance(replies, list):
            raise RowFaultError(f"`{place}` is {shown(replies)} instead of a list", _SHAPE)
        number, message = min(enumerate(replies), key=_rank, default=(0, None))
        if message is not None and _is_left_aside(message):
            message = None
        place = f"{place}[{number}]"


def _rank(numbered: tuple[int, Any]) -> tuple[bool, bool, float, int]:
    """Sort key of replies: by rank, then those without a rank, then skipped ones."""
    number, reply = numbered
    rank = reply.get("rank") if isinstance(reply, Mapping) else None
    if not isinstance(rank, (int, float)):
        return _is_left_aside(reply), True, 0, number
    return _is_left_aside(reply), False, rank, number


def _is_left_aside(reply: Any) -> bool:
    return isinstance(reply, Mapping) and (reply.get("deleted") is True or reply.get("review_result") is False)
