"""The format of OpenAI's API: a list of messages, or a prompt and a completion as one turn each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Message, RowFaultError, Values
from lora_ns.formats.cells import (
    Cells,
    answered,
    column_of,
    fill,
    fill_first,
    fill_single_field,
    template_columns,
    used_columns,
)
from lora_ns.formats.chat import Chat
from lora_ns.formats.turns import list_of_turns, read_tools, read_turn


@dataclass(frozen=True)
class Messages(Chat):
    """Conversations from a `messages` column, from `prompt` and `completion` columns, or from templates."""

    name: ClassVar[str] = "messages"
    reads: ClassVar[tuple[str, ...]] = ("messages", "prompt", "completion", "tools")
    aliases: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (("messages",),)
    templates: ClassVar[tuple[str, ...]] = (
        "prompt_template",
        "fallback_prompt_templates",
        "completion_template",
        "system_template",
    )

    def used(self, names: Collection[str]) -> list[str]:
        """Columns that are read: messages and tools, those of the templates, or prompt and completion."""
        columns = self.columns
        if used_columns(columns, ("messages",), names):
            return used_columns(columns, ("messages", "tools"), names)
        if columns.prompt_template is not None:
            templates = (*columns.prompt_templates, columns.completion_template, columns.system_template)
            return [name for name in template_columns(*templates) if column_of(name, names) in names]
        return super().used(names)

    def question(self, text: str) -> Values:
        """A row with one user turn."""
        columns = self.columns
        if columns.prompt_template is not None:
            return fill_single_field(columns.prompt_templates, text)
        if "prompt" in columns.columns:
            return {columns.columns["prompt"]: text}
        return {columns.columns.get("messages", "messages"): [{"role": "user", "content": text}]}

    def turns(self, cells: Cells, with_answer: bool) -> tuple[Message, ...]:
        """The messages, or prompt and completion as one turn each."""
        if cells.has("messages"):
            return _turns(cells, "messages")
        if self.columns.prompt_template is not None:
            return self._filled(cells.values, with_answer)
        if not cells.has("prompt"):
            raise RowFaultError(f"no column `{cells.own('messages')}`", f"columns: {', '.join(cells.values)}")
        prompt = _side(cells, "prompt", "user")
        return prompt + _side(cells, "completion", "assistant") if with_answer else prompt

    def tools(self, cells: Cells) -> tuple[Values, ...] | None:
        """The tools of a row; None with templates."""
        is_filled = self.columns.prompt_template is not None and not cells.has("messages")
        return None if is_filled else read_tools(cells)

    def _filled(self, values: Values, with_answer: bool) -> tuple[Message, ...]:
        columns = self.columns
        turns = [Message("user", fill_first(columns.prompt_templates, values))]
        if columns.system_template is not None:
            turns.insert(0, Message("system", fill(columns.system_template, values)))
        if with_answer:
            turns.append(Message("assistant", answered(fill(columns.completion_template or "", values))))
        return tuple(turns)


def _side(cells: Cells, name: str, role: str) -> tuple[Message, ...]:
    if isinstance(cells.get(name), list):
        return _turns(cells, name)
    text = cells.text(name)
    return (Message(role, answered(text) if role == "assistant" else text),)


def _turns(cells: Cells, name: str) -> tuple[Message, ...]:
    turns = list_of_turns(cells.get(name), cells.own(name))
    if "from" in turns[0][0]:
        what = f"`{turns[0][1]}` has the key `from`, as in ShareGPT"
        raise RowFaultError(
            what, f'write `format = "sharegpt"` and `columns = {{conversations = "{cells.own(name)}"}}`'
        )
    return tuple(read_turn(turn, place) for turn, place in turns)
