"""The format of preference pairs: a prompt with a preferred and a rejected answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, ClassVar

from lora_ns.formats.base import Columns, Conversation, Example, Message, Preference, RowFaultError, Values
from lora_ns.formats.cells import Cells, answered, cells_of, shown, used_columns
from lora_ns.formats.chat import system_turn
from lora_ns.formats.instructions import history_turns
from lora_ns.formats.sharegpt import sharegpt_turn
from lora_ns.formats.turns import list_of_turns, read_tools

Turns = tuple[Message, ...]

_WAYS = 'write `prompt`, `chosen` and `rejected`, or map the columns, such as `columns = {chosen = "..."}`'

CONVERSATIONS = ("messages", "conversations")
"""Columns of turns before an answer, or with it."""


@dataclass(frozen=True)
class PreferencePairs:
    """Preference pairs: `chosen` and `rejected`, as texts, turns or whole conversations, and their prompt."""

    name: ClassVar[str] = "preference"
    makes: ClassVar[tuple[type[Example], ...]] = (Preference,)
    reads: ClassVar[tuple[str, ...]] = (
        *("prompt", "chosen", "rejected", "system", "history", "tools"),
        *("messages", "conversations", "instruction", "input"),
    )
    aliases: ClassVar[Mapping[str, str]] = {
        "question": "prompt",
        "query": "prompt",
        "chosen_messages": "chosen",
        "rejected_messages": "rejected",
        "chosen_response": "chosen",
        "rejected_response": "rejected",
        "response_j": "chosen",
        "response_k": "rejected",
    }
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """The answers, and the columns of their prompt."""
        return used_columns(self.columns, self.reads, names)

    def example(self, values: Values) -> Preference:
        """The conversation with each answer, which alone is learned."""
        cells = cells_of(values, self.columns)
        prompt, chosen, rejected = _pair(cells)
        return Preference(whole_conversation(prompt, chosen, cells), whole_conversation(prompt, rejected, cells))

    def answered(self, values: Values) -> tuple[Conversation, ...]:
        """The conversation with each answer that the row has: the preferred and the rejected one, or a single one."""
        cells = cells_of(values, self.columns)
        if cells.has("rejected"):
            return self.example(values).sides
        turns = turns_of(cells, "chosen") if cells.has("chosen") else context_turns(cells)
        if cells.has("chosen") and turns[0].role == "assistant":
            return (whole_conversation(context_turns(cells), turns, cells),)
        if turns[-1].role != "assistant":
            what = "the row has no answer to score"
            raise RowFaultError(what, "end `messages` with an assistant turn, or write the answer into `chosen`")
        prompt = _with_system(cells, turns[:-1]) if turns[:-1] else ()
        if cells.has("chosen"):
            _check_prompt_column(cells, prompt)
        return (whole_conversation(prompt, turns[-1:], cells),)

    def prompt(self, values: Values) -> Conversation:
        """The conversation before the answers."""
        cells = cells_of(values, self.columns)
        if cells.has("rejected") and any(cells.has(name) for name in ("chosen", *CONVERSATIONS)):
            return Conversation(_pair(cells)[0], read_tools(cells))
        return unanswered(cells)

    def question(self, text: str) -> Values:
        """A row with a prompt only."""
        return {self.columns.columns.get("prompt", "prompt"): text}

    def answer(self, values: Values) -> str:
        """The text of the preferred answer."""
        return _pair(cells_of(values, self.columns))[1][-1].content


def unanswered(cells: Cells) -> Conversation:
    """The turns of the prompt's own columns, without an answer at their end. Raises `RowFaultError`."""
    turns = context_turns(cells)
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns:
        raise RowFaultError("no turn to answer", "add a user turn")
    return Conversation(turns, read_tools(cells))


def whole_conversation(prompt: Turns, answer: Turns, cells: Cells) -> Conversation:
    """A conversation in which the answers of the prompt are not learned."""
    context = tuple(replace(turn, train=False) if turn.role == "assistant" else turn for turn in prompt)
    return Conversation(context + answer, read_tools(cells))


def _pair(cells: Cells) -> tuple[Turns, Turns, Turns]:
    """The prompt and both answers of a row. Raises `RowFaultError`."""
    if not cells.has("rejected") and cells.has("chosen"):
        raise RowFaultError(f"no column `{cells.own('rejected')}`", _WAYS)
    chosen, rejected = _answers(cells)
    if (chosen[0].role == "assistant") != (rejected[0].role == "assistant"):
        names = f"`{cells.own('chosen')}` and `{cells.own('rejected')}`"
        raise RowFaultError(f"only one of {names} contains the prompt", "write both with it, or both without it")
    if chosen[0].role != "assistant":
        prompt, chosen, rejected = _divided(cells, chosen, rejected)
    else:
        prompt = context_turns(cells)
        if prompt[-1].role == "assistant":
            what = "the prompt ends with an assistant turn, so the answers would follow another answer"
            raise RowFaultError(what, "end it with a user turn")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or turns[-1].role != "assistant":
            last = f"ends with a {turns[-1].role} turn" if turns else "has no answer after the common prompt"
            raise RowFaultError(f"`{cells.own(name)}` {last}", "end it with an assistant turn")
    return prompt, chosen, rejected


def _answers(cells: Cells) -> tuple[Turns, Turns]:
    """The turns of both answer columns; in rows of ms-swift, the conversation holds the preferred one."""
    if cells.has("chosen"):
        return turns_of(cells, "chosen"), turns_of(cells, "rejected")
    column = next((name for name in CONVERSATIONS if cells.has(name)), None)
    if column is None or not cells.has("rejected"):
        raise RowFaultError(f"no column `{cells.own('chosen')}`", _WAYS)
    whole, rejected = turns_of(cells, column), turns_of(cells, "rejected")
    if whole[-1].role != "assistant":
        what = f"no column `{cells.own('chosen')}`, and `{cells.own(column)}` does not end with an answer"
        raise RowFaultError(what, _WAYS)
    if rejected[0].role != "assistant":
        return whole, rejected
    answer = len(whole) - len(list(takewhile(lambda turn: turn.role == "assistant", reversed(whole))))
    return whole, whole[:answer] + rejected


def _divided(cells: Cells, chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """Divide two whole conversations into their common prompt and the answers. Raises `RowFaultError`."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    if chosen == rejected:  # the same answer twice: the last turns are the answers
        same = max(place for place, turn in enumerate(chosen) if turn.role != "assistant") + 1
    names = f"`{cells.own('chosen')}` and `{cells.own('rejected')}`"
    if not same:
        raise RowFaultError(f"{names} have no common prompt", "begin both with the same turns")
    if any(turns[same : same + 1] and turns[same].role != "assistant" for turns in (chosen, rejected)):
        what = f"turn {same} of {names} differs, but is not an answer"
        raise RowFaultError(what, "give both the same prompt")
    prompt = _with_system(cells, chosen[:same])
    _check_prompt_column(cells, prompt)
    return prompt, chosen[same:], rejected[same:]


def _with_system(cells: Cells, prompt: Turns) -> Turns:
    system = system_turn(cells)
    if not system or prompt[0] == system[0]:
        return prompt
    if prompt[0].role == "system":
        raise RowFaultError(f"both `{cells.own('system')}` and a system turn are given", "keep one of them")
    return system + prompt


def _check_prompt_column(cells: Cells, prompt: Turns) -> None:
    """Refuse a prompt column that says something else than the conversations. Raises `RowFaultError`."""
    for name in ("prompt", "instruction"):
        value = cells.get(name)
        if not isinstance(value, str) or not value.strip() or _asked(value) == prompt:
            continue
        if not any(value.strip() in turn.content for turn in prompt):
            what = f"`{cells.own(name)}` is not in the common prompt of both conversations, and would be lost"
            raise RowFaultError(what, f'correct it, or write `ignore_columns = ["{cells.own(name)}"]`')


def context_turns(cells: Cells) -> Turns:
    """The turns of the prompt's own columns. Raises `RowFaultError`."""
    system = system_turn(cells)
    column = next((name for name in CONVERSATIONS if cells.has(name)), None)
    if column or isinstance(cells.get("prompt"), list):
        turns = turns_of(cells, column or "prompt")
        return _with_system(cells, turns)
    if dialogue := _asked(cells.get("prompt")):
        return _with_system(cells, dialogue)
    asked = next((name for name in ("instruction", "prompt", "input") if cells.has(name)), None)
    if asked is None:
        raise RowFaultError(f"no column `{cells.own('prompt')}`, and the answers do not contain it", _WAYS)
    more = cells.optional_text("input") if asked == "instruction" else ""
    question = "\n\n".join(part for part in (cells.text(asked), more) if part)
    return (*system, *history_turns(cells), Message("user", question))


def turns_of(cells: Cells, name: str) -> Turns:
    """A column as turns: a text, one turn, or a list of turns. Raises `RowFaultError`."""
    value, own = cells.get(name), cells.own(name)
    if isinstance(value, str):
        answer = value.strip() if _asked(cells.get("prompt")) else value  # HH writes a space before it
        return _dialogue(value) or (Message("assistant", _not_empty(answer, own)),)
    if isinstance(value, Mapping):
        return (sharegpt_turn(value, own),)
    if isinstance(value, list):
        return tuple(sharegpt_turn(turn, place) for turn, place in list_of_turns(value, own))
    raise RowFaultError(f"`{own}` is {shown(value)} instead of an answer", "write a text, a turn or a list of turns")


def _not_empty(text: Any, own: str) -> str:
    try:
        return answered(text)
    except RowFaultError:
        remedy = "an empty answer teaches the model to say nothing; remove the row"
        raise RowFaultError(f"`{own}` is empty", remedy) from None


_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")


def _asked(prompt: Any) -> Turns:
    """The turns of a prompt in HH's text form, which may end with `\\n\\nAssistant:`; empty for any other prompt."""
    return _dialogue(prompt.rstrip().removesuffix("\n\nAssistant:")) if isinstance(prompt, str) else ()


def _dialogue(text: str) -> Turns:
    """The turns of Anthropic's HH text form, `\\n\\nHuman: ...\\n\\nAssistant: ...`; empty for any other text."""
    if not text.startswith("\n\nHuman:"):
        return ()
    parts = _SPEAKER.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    said = zip(parts[::2], parts[1::2], strict=True)
    return tuple(Message(roles[speaker], _not_empty(content.strip(), speaker)) for speaker, content in said)
