"""Parsing of turns, tool calls and tools.

A key with a null value counts as absent: in Parquet and Arrow, every turn has the keys of all turns.
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


_PAIRS = (("human", "assistant"), ("user", "assistant"), ("human", "gpt"))
"""Key pairs of a question and its answer in one object."""


_KEYS: Mapping[str, tuple[str, ...]] = {
    "system": ("name",),
    "user": ("name",),
    "assistant": ("name", "tool_calls", "reasoning_content", "thinking", *_FLAGS),
    "tool": ("name", "tool_call_id"),
}
"""Allowed keys of a turn besides its text, by role."""


@dataclass(frozen=True)
class Spelling:
    """Spelling of turns in a format: the keys of role and text, and the role names."""

    role: str
    content: str
    roles: Mapping[str, str]
    shown_roles: tuple[str, ...]
    """Role names that messages list."""


OPENAI = Spelling(
    "role", "content", {**{role: role for role in ROLES}, "developer": "system", "function": "tool"}, ROLES
)


def list_of_turns(value: Any, column: str) -> list[tuple[Values, str]]:
    """The turns of a column, each with its path for messages. Raises `RowFaultError`."""
    if not isinstance(value, list):
        raise RowFaultError(f"`{column}` is {shown(value)} instead of a list of turns")
    if not value:
        raise RowFaultError(f"`{column}` has no turns", "add a question and an answer, or remove the row")
    places = (f"{column}[{number}]" for number in range(len(value)))
    return [side for place, turn in zip(places, value, strict=True) for side in _sides(_object(turn, place), place)]


def _sides(turn: Values, place: str) -> list[tuple[Values, str]]:
    """Split an object with a question and its answer into two turns; any other turn stays as it is."""
    pairs = [pair for pair in _PAIRS if pair[0] in turn]
    if not pairs or "role" in turn or "from" in turn:
        return [(turn, place)]
    question, answer = next((pair for pair in pairs if pair[1] in turn), pairs[0])
    others = sorted(set(turn) - {question, answer})
    if others:
        raise RowFaultError(
            f"`{place}` has `{others[0]}`, which would be lost", f"a round has only `{question}`, `{answer}`"
        )
    roles = {question: "user", answer: "assistant"} if turn.get(answer) is not None else {question: "user"}
    return [({"role": role, "content": _content(turn[key], f"{place}.{key}")}, place) for key, role in roles.items()]


def read_turn(turn: Values, place: str, spelling: Spelling = OPENAI) -> Message:
    """Parse a turn. Raises `RowFaultError`."""
    given = {key: value for key, value in turn.items() if value is not None and (key, value) != ("tool_calls", [])}
    role = _role(given.pop(spelling.role, None), place, spelling)
    content = given.pop(spelling.content, None)
    weight = given.pop("loss_weight", None)
    if isinstance(content, list):
        content, parts = _parts(content, f"{place}.{spelling.content}")
        given |= parts
    _check_keys(given, role, place, spelling)
    train = _train(given, place) if weight is None else _weighed(weight, given, role, place)
    extra = {key: _extra(key, value, place) for key, value in given.items() if key not in _FLAGS}
    if content is None and "tool_calls" in extra:
        content = ""
    text = _content(content, f"{place}.{spelling.content}")
    needs_text = role == "assistant" and "tool_calls" not in extra
    return Message(role, answered(text) if needs_text else text, extra, train)


def read_tools(cells: Cells) -> tuple[Values, ...] | None:
    """Parse the tools of a row, a list or its JSON; None if there are none. Raises `RowFaultError`."""
    value, place = cells.get("tools"), cells.own("tools")
    if isinstance(value, str):
        value = parsed(value, place, "write a list of tools") if value.strip() else None
    if not value:
        return None
    if not isinstance(value, list):
        raise RowFaultError(f"`{place}` is {shown(value)} instead of a list of tools", _TOOL)
    return tuple(_tool(tool, f"{place}[{number}]") for number, tool in enumerate(value))


def read_tool_calls(value: Any, place: str) -> list[Values]:
    """Parse tool calls into the form of chat templates, with arguments as objects. Raises `RowFaultError`."""
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
        raise RowFaultError(f"`{place}.{spelling.role}` is {shown(name)}", f"one of: {', '.join(spelling.shown_roles)}")
    return role


def _check_keys(given: Values, role: str, place: str, spelling: Spelling) -> None:
    """Refuse keys that no chat template would show."""
    unknown = sorted(set(given) - set(_KEYS[role]))
    if unknown:
        known = listed((spelling.role, spelling.content, *_KEYS[role]))
        raise RowFaultError(f"`{place}` has `{unknown[0]}`, which would be lost", f"known for role `{role}`: {known}")


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


def _weighed(weight: Any, given: Values, role: str, place: str) -> bool | None:
    """Parse `loss_weight`, which LLaMA-Factory gives every turn. Raises `RowFaultError`."""
    flag = next((key for key in _FLAGS if key in given), None)
    if flag:
        raise RowFaultError(f"`{place}` has both `{flag}` and `loss_weight`", "keep one of them")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowFaultError(
            f"`{place}.loss_weight` is {shown(weight)}", "write 0 or 1; an answer is in the loss or not"
        )
    if role != "assistant" and weight:
        raise RowFaultError(f"`{place}.loss_weight` is {shown(weight)}", f"write 0; a {role} turn is never in the loss")
    return bool(weight) if role == "assistant" else None


def _extra(key: str, value: Any, place: str) -> Any:
    if key == "tool_calls":
        return read_tool_calls(value, f"{place}.tool_calls")
    if not isinstance(value, str):
        raise RowFaultError(f"`{place}.{key}` is {shown(value)} instead of text")
    return value


def _content(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise RowFaultError(f"`{place}` is {shown(value)} instead of text")
    return value


def _parts(parts: list[Any], place: str) -> tuple[str | None, dict[str, Any]]:
    """Join the parts of a turn: its text, and further keys for reasoning and tool calls."""
    found: dict[str, list[Any]] = {}
    for number, part in enumerate(parts):
        kind, value = _part(part, f"{place}[{number}]")
        found.setdefault(kind, []).append(value)
    more: dict[str, Any] = {}
    if "reasoning" in found:
        more["reasoning_content"] = "".join(found["reasoning"])
    if "tool_call" in found:
        more["tool_calls"] = [call for calls in found["tool_call"] for call in calls]
    return None if found and "text" not in found else "".join(found.get("text", ())), more


def _part(part: Any, place: str) -> tuple[str, Any]:
    """Kind and content of a part of a turn."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind not in {"text", "reasoning", "tool_call"}:
        raise RowFaultError(f"`{place}` is of type `{kind}`", "only text is supported")
    value = (part.get("text") if part.get("text") is not None else part.get("value")) if kind else None
    if kind is None or not isinstance(value, str):
        raise RowFaultError(f"`{place}` is not a text part", 'write `{"type": "text", "text": ...}`')
    if kind != "tool_call":
        return kind, value
    calls = parsed(value, place, _CALL)
    return kind, calls if isinstance(calls, list) else [calls]


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
    """Parse a tool into the form that servers give to the chat template, so that training and serving agree."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowFaultError(f"`{place}` names no function", _TOOL)
    return tool if "function" in tool else {"type": "function", "function": tool}
