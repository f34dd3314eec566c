"""Turns of a conversation as rows spell them, their tool calls, and the tools that they can call.

A key whose value is null is not there: tables of nested columns give every turn the keys of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_ns.formats.base import ROLES, Message, RowFaultError, Values
from lora_ns.formats.cells import Cells, answered, listed, parsed, shown

_CALL = 'write `{"name": ..., "arguments": {...}}`'
_TOOL = 'write `{"name": ..., "description": ..., "parameters": {...}}`'
_FLAGS = ("train", "weight")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "system": ("name",),
    "user": ("name",),
    "assistant": ("name", "tool_calls", "reasoning_content", "thinking", *_FLAGS),
    "tool": ("name", "tool_call_id"),
}
"""What a turn of each role can have beside its text."""


@dataclass(frozen=True)
class Spelling:
    """How rows spell a turn: the keys of its role and its text, and the names of the roles."""

    role: str
    content: str
    roles: Mapping[str, str]
    told: tuple[str, ...]
    """The names of the roles that a message tells."""


OPENAI = Spelling(
    "role", "content", {**{role: role for role in ROLES}, "developer": "system", "function": "tool"}, ROLES
)


def list_of_turns(value: Any, column: str) -> list[tuple[Values, str]]:
    """The turns of a column, each with its place. Raises `RowFaultError`."""
    if not isinstance(value, list):
        raise RowFaultError(f"`{column}` is {shown(value)} instead of a list of turns")
    if not value:
        raise RowFaultError(f"`{column}` has no turns", "give it a question and an answer, or remove the row")
    return [(_object(turn, f"{column}[{number}]"), f"{column}[{number}]") for number, turn in enumerate(value)]


def read_turn(turn: Values, place: str, spelling: Spelling = OPENAI) -> Message:
    """A turn. Raises `RowFaultError`."""
    given = {key: value for key, value in turn.items() if value is not None and (key, value) != ("tool_calls", [])}
    role = _role(given.pop(spelling.role, None), place, spelling)
    content = given.pop(spelling.content, None)
    _check_keys(given, role, place, spelling)
    train = _train(given, place)
    extra = {key: _extra(key, value, place) for key, value in given.items() if key not in _FLAGS}
    if content is None and "tool_calls" in extra:
        content = ""
    text = _content(content, f"{place}.{spelling.content}")
    needs_text = role == "assistant" and "tool_calls" not in extra
    return Message(role, answered(text) if needs_text else text, extra, train)


def read_tools(cells: Cells) -> tuple[Values, ...] | None:
    """The tools of a row, from a list or the JSON of one; None where there are none. Raises `RowFaultError`."""
    value, place = cells.get("tools"), cells.own("tools")
    if isinstance(value, str):
        value = parsed(value, place, "write a list of tools") if value.strip() else None
    if not value:
        return None
    if not isinstance(value, list):
        raise RowFaultError(f"`{place}` is {shown(value)} instead of a list of tools", _TOOL)
    return tuple(_tool(tool, f"{place}[{number}]") for number, tool in enumerate(value))


def read_tool_calls(value: Any, place: str) -> list[Values]:
    """Tool calls in the form that chat templates read, their arguments as objects. Raises `RowFaultError`."""
    if not isinstance(value, list):
        raise RowFaultError(f"`{place}` is {shown(value)} instead of a list of tool calls", _CALL)
    return [_tool_call(call, f"{place}[{number}]") for number, call in enumerate(value)]


def _object(turn: Any, place: str) -> Values:
    if not isinstance(turn, Mapping):
        raise RowFaultError(f"`{place}` is {shown(turn)} instead of a turn", 'write `{"role": ..., "content": ...}`')
    return turn


def _role(name: Any, place: str, spelling: Spelling) -> str:
    role = spelling.roles.get(name) if isinstance(name, str) else None
    if role is None:
        raise RowFaultError(f"`{place}.{spelling.role}` is {shown(name)}", f"one of: {', '.join(spelling.told)}")
    return role


def _check_keys(given: Values, role: str, place: str, spelling: Spelling) -> None:
    """Refuse what no chat template would show."""
    unknown = sorted(set(given) - set(_KEYS[role]))
    if unknown:
        known = listed((spelling.role, spelling.content, *_KEYS[role]))
        raise RowFaultError(f"`{place}` has `{unknown[0]}`, which would be lost", f"a turn of {role} has {known}")


def _train(given: Values, place: str) -> bool | None:
    flags = [key for key in _FLAGS if key in given]
    if not flags:
        return None
    if len(flags) > 1:
        raise RowFaultError(f"`{place}` has both `train` and `weight`", "keep one of them")
    value = given[flags[0]]
    if flags == ["train"] and not isinstance(value, bool):
        raise RowFaultError(f"`{place}.train` is {shown(value)}", "true or false")
    if flags == ["weight"] and (isinstance(value, bool) or value not in (0, 1)):
        raise RowFaultError(f"`{place}.weight` is {shown(value)}", "0 or 1")
    return bool(value)


def _extra(key: str, value: Any, place: str) -> Any:
    if key == "tool_calls":
        return read_tool_calls(value, f"{place}.tool_calls")
    if not isinstance(value, str):
        raise RowFaultError(f"`{place}.{key}` is {shown(value)} instead of text")
    return value


def _content(value: Any, place: str) -> str:
    if isinstance(value, list):
        return "".join(_part(part, f"{place}[{number}]") for number, part in enumerate(value))
    if not isinstance(value, str):
        raise RowFaultError(f"`{place}` is {shown(value)} instead of text")
    return value


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind != "text":
        raise RowFaultError(f"`{place}` is of type `{kind}`", "this version learns from text alone")
    if kind is None or not isinstance(part.get("text"), str):
        raise RowFaultError(f"`{place}` is no text part", 'write `{"type": "text", "text": ...}`')
    return str(part["text"])


def _tool_call(call: Any, place: str) -> Values:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowFaultError(f"`{place}` names no function", _CALL)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parsed(arguments, f"{place}.arguments", _CALL)
    if not isinstance(arguments, Mapping):
        raise RowFaultError(f"`{place}.arguments` is {shown(arguments)} instead of an object", _CALL)
    about = {key: value for key, value in call.items() if key not in {"function", "name", "arguments"}}
    return {"type": "function", **about, "function": {"name": function["name"], "arguments": arguments}}


def _tool(tool: Any, place: str) -> Values:
    """A tool in the form in which servers hand it to the chat template, so that training and serving agree."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowFaultError(f"`{place}` names no function", _TOOL)
    return tool if "function" in tool else {"type": "function", "function": tool}
