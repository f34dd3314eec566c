"""The ShareGPT format, with the tool calls of LLaMA-Factory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lora_ns.formats.base import Message, RowFaultError, Values
from lora_ns.formats.cells import Cells, parsed, shown
from lora_ns.formats.chat import Chat, system_turn
from lora_ns.formats.turns import OPENAI, Spelling, list_of_turns, read_tool_calls, read_turn

_CALL = "function_call"


_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
}


_SHAREGPT = Spelling("from", "value", _ROLES, (*_ROLES, _CALL))


_WITH_ROLES = replace(OPENAI, roles={**OPENAI.roles, **_ROLES}, shown_roles=_SHAREGPT.shown_roles)


@dataclass(frozen=True)
class ShareGpt(Chat):
    """Conversations: a `conversations` column of turns with `from` and `value`, optionally a `system` column."""

    name: ClassVar[str] = "sharegpt"
    reads: ClassVar[tuple[str, ...]] = ("conversations", "system", "tools")
    aliases: ClassVar[Mapping[str, str]] = {"conversation": "conversations"}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (("conversations",), ("conversation",))

    def question(self, text: str) -> Values:
        """A row with one turn from the human."""
        return {self.columns.columns.get("conversations", "conversations"): [{"from": "human", "value": text}]}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:  # noqa: ARG002 -- a prompt drops the answer
        """The turn of the `system` column, then those of `conversations`."""
        turns = list_of_turns(cells.get("conversations"), cells.own("conversations"))
        messages = tuple(sharegpt_turn(turn, place) for turn, place in turns)
        system = system_turn(cells)
        if system and messages[0].role == "system":
            raise RowFaultError(f"both `{cells.own('system')}` and a system turn are given", "keep one of them")
        return system + messages


def sharegpt_turn(turn: Values, place: str) -> Message:
    """Parse a turn with `from` and `value`, or with `role` and `content`. Raises `RowFaultError`."""
    spelling = _SHAREGPT if "from" in turn else _WITH_ROLES
    if turn.get(spelling.role) != _CALL:
        return read_turn(turn, place, spelling)
    calls = _calls(turn.get(spelling.content), f"{place}.{spelling.content}")
    return read_turn({**turn, spelling.role: "gpt", spelling.content: "", "tool_calls": calls}, place, spelling)


def _calls(value: Any, place: str) -> list[Values]:
    remedy = 'write `{"name": ..., "arguments": {...}}`'
    if not isinstance(value, str):
        raise RowFaultError(f"`{place}` is {shown(value)} instead of text", remedy)
    calls = parsed(value, place, remedy)
    return read_tool_calls(calls if isinstance(calls, list) else [calls], place)
