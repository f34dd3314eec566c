"""What Ollama makes of a conversation with a TEMPLATE: the part of Go's text/template that chat templates need."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lora_ns.errors import Problem, UsageError

Turns = Sequence[tuple[str, str]]
"""Roles and texts."""

_ACTION = re.compile(
    r"\{\{(- )?((?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|/\*.*?\*/|[^\"`/{}]|/(?!\*)|\}(?!\}))*?)( -)?\}\}", re.DOTALL
)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(?P<number>-?\d+)|(?P<sign>:=|[=,()])"
    r"|(?P<path>[$.][\w.]*)|(?P<name>[A-Za-z]\w*))"
)
_SPACE = " \t\r\n"
_ESCAPE = re.compile(r"\\(?:U([0-9a-fA-F]{8})|u([0-9a-fA-F]{4})|(.))")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


class _UnknownError(Exception):
    """A part of Go's language that is not here."""


@dataclass(frozen=True)
class _Branch:
    """An `if` or a `range`: its expression, what it does, and what it does otherwise."""

    is_loop: bool
    names: tuple[str, ...]
    """Variables of the loop."""
    expression: tuple[Any, ...]
    body: tuple[Any, ...]
    otherwise: tuple[Any, ...]


def ollama_text(template: str, turns: Turns) -> str:
    """Return the text that Ollama sends to the model for the next answer, as its `template/template.go` does.

    Raises:
        UsageError: if the template is not one of Go, or uses parts of its language that lorans does not know.
    """
    if ".Messages" in template:
        messages = [{"Role": role, "Content": text} for role, text in _collated(turns)]
        system = "\n\n".join(text for role, text in turns if role == "system")
        return executed(template, {"System": system, "Messages": messages, "Response": ""})
    with _telling():
        nodes = _parsed(template)
        if ".Response" in template and ("Response",) not in nodes:
            raise _UnknownError("`.Response` is inside a block")
        return _run_in_turn(nodes, _collated(turns))


def executed(template: str, values: Mapping[str, Any]) -> str:
    """Return what Go's text/template writes for a map of values. Raises `UsageError` as `ollama_text` does."""
    with _telling():
        return _run(_parsed(template), values)


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except (_UnknownError, ValueError, TypeError, IndexError, RecursionError) as error:
        what = f"lorans cannot evaluate the TEMPLATE: {error}"
        raise UsageError(Problem("", what, "compare it with Ollama's own answers")) from None


def _collated(turns: Turns) -> list[tuple[str, str]]:
    """Join neighbours of one role."""
    found: list[tuple[str, str]] = []
    for role, text in turns:
        if found and found[-1][0] == role:
            found[-1] = (role, f"{found[-1][1]}\n\n{text}")
        else:
            found.append((role, text))
    return found


def _run_in_turn(nodes: Sequence[Any], turns: Turns) -> str:
    """Run a template once for each question; the last time without what follows the answer."""
    parts, written = list[str](), {"System": "", "Prompt": "", "Response": ""}
    whole = [*nodes] if ("Response",) in nodes else [*nodes, ("Response",)]

    def flush() -> None:
        parts.append(_run(whole, dict(written)))
        written.update(dict.fromkeys(written, ""))

    for role, text in turns:
        if (role == "user" and written["Response"]) or (
            role == "system" and (written["Prompt"] or written["Response"])
        ):
            flush()
        written[{"user": "Prompt", "assistant": "Response"}.get(role, "System")] = text
    return "".join([*parts, _run(whole[: whole.index(("Response",)) + 1], written)])


def _parsed(template: str) -> tuple[Any, ...]:
    """Return a template as texts, expressions and branches."""
    parts: list[str | tuple[Any, ...]] = []
    place, is_trimmed = 0, False
    while (begin := template.find("{{", place)) >= 0:
        found = _ACTION.match(template, begin)
        if found is None:
            raise _UnknownError(f"`{template[begin:][:20]}` is not closed")
        text = template[place:begin].lstrip(_SPACE if is_trimmed else "")
        parts.append(text.rstrip(_SPACE if found[1] else ""))
        content = found[2].strip(_SPACE)
        parts.append(() if content.startswith("/*") else tuple(_tokens(content)))
        place, is_trimmed = found.end(), bool(found[3])
    parts.append(template[place:].lstrip(_SPACE if is_trimmed else ""))
    nodes, closing = _block(iter(parts))
    if closing:
        raise _UnknownError(f"`{closing[0]}` closes nothing")
    return nodes


def _tokens(content: str) -> Iterator[Any]:
    """Yield the tokens of an action: names, signs and paths as words, other values in lists of one."""
    place = 0
    while place < len(content.rstrip(_SPACE)):
        found = _TOKEN.match(content, place)
        if found is None:
            raise _UnknownError(f"`{content[place:][:20].strip()}`")
        place = found.end()
        if found["text"]:
            inner = found["text"][1:-1]
            yield [inner if found["text"][0] == "`" else _ESCAPE.sub(_unescaped, inner)]
        elif found["number"]:
            yield [int(found["number"])]
        else:
            yield found[0].strip(_SPACE)


def _unescaped(found: re.Match[str]) -> str:
    if found[3] and found[3] not in _ESCAPED:
        raise _UnknownError(f"`{found[0]}`")
    return _ESCAPED[found[3]] if found[3] else chr(int(found[1] or found[2], 16))


def _block(parts: Iterator[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the nodes up to the end of a block, and the action that ends it."""
    nodes: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            nodes.append(part)
        elif part[:1] in [("end",), ("else",)]:
            return tuple(nodes), part
        elif part[:1] in [("if",), ("range",)]:
            nodes.append(_branch(part, parts))
        elif part:
            nodes.append(("Response",) if part == (".Response",) else part)
    return tuple(nodes), ()


def _branch(action: tuple[Any, ...], parts: Iterator[Any]) -> _Branch:
    body, closing = _block(parts)
    otherwise: tuple[Any, ...] = ()
    if closing[:2] == ("else", "if"):
        otherwise = (_branch(closing[1:], parts),)
    elif closing == ("else",):
        otherwise, closing = _block(parts)
    if not otherwise and closing != ("end",):
        raise _UnknownError(f"`{action[0]}` is not closed")
    expression, names = action[1:], ()
    if action[0] == "range" and ":=" in action:
        names = tuple(name for name in action[1 : action.index(":=")] if name != ",")
        expression = action[action.index(":=") + 1 :]
    return _Branch(action[0] == "range", names, expression, body, otherwise)


def _run(nodes: Sequence[Any], root: Mapping[str, Any]) -> str:
    return "".join(_written(nodes, root, ChainMap({"$": root})))


def _written(nodes: Sequence[Any], dot: Any, names: ChainMap[str, Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif isinstance(node, _Branch):
            yield from _branched(node, dot, names)
        elif node == ("Response",):
            yield str(names["$"]["Response"])
        elif len(node) > 2 and node[1] in (":=", "="):
            scope: MutableMapping[str, Any] = names.maps[0]
            if node[1] == "=":
                scope = next(one for one in names.maps if node[0] in one)
            scope[node[0]] = _value(node[2:], dot, names)
        else:
            value = _value(node, dot, names)
            if not isinstance(value, (str, int)):
                raise _UnknownError(f"it writes a value that is no text: `{node[0]}`")
            yield str(value).lower() if isinstance(value, bool) else str(value)


def _branched(node: _Branch, dot: Any, names: ChainMap[str, Any]) -> Iterator[str]:
    value = _value(node.expression, dot, names)
    if node.is_loop and value:
        for number, one in enumerate(value):
            pair = (number, one)[-len(node.names) :] if node.names else ()
            yield from _written(node.body, one, names.new_child(dict(zip(node.names, pair, strict=True))))
    else:
        chosen = node.body if value and not node.is_loop else node.otherwise
        yield from _written(chosen, dot, names.new_child({}))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda one, *others: one in others,
    "ne": lambda one, other: one != other,
    "lt": lambda one, other: one < other,
    "le": lambda one, other: one <= other,
    "gt": lambda one, other: one > other,
    "ge": lambda one, other: one >= other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "len": len,
    "slice": lambda values, *ends: values[slice(*ends) if len(ends) > 1 else slice(ends[0], None)],
}


def _value(expression: Sequence[Any], dot: Any, names: Mapping[str, Any]) -> Any:
    """Evaluate an expression: a value, or a function with its arguments."""
    values, place = list[Any](), 0
    while place < len(expression):
        end = _bracketed(expression, place) if expression[place] == "(" else place + 1
        if end > place + 1:
            values.append(_value(expression[place + 1 : end - 1], dot, names))
        else:
            values.append(_operand(expression[place], dot, names, is_first=not place))
        place = end
    if callable(values[0]):
        return values[0](*values[1:])
    if len(values) != 1:
        raise _UnknownError("a value has arguments")
    return values[0]


def _bracketed(expression: Sequence[Any], place: int) -> int:
    """The place after the bracket that closes one."""
    depth = 0
    for end in range(place, len(expression)):
        depth += {"(": 1, ")": -1}.get(str(expression[end]), 0)
        if not depth:
            return end + 1
    raise _UnknownError("a bracket is not closed")


def _operand(token: Any, dot: Any, names: Mapping[str, Any], is_first: bool) -> Any:
    """The value of a token."""
    if isinstance(token, list):
        return token[0]
    if token[0] in ".$":
        return _found(token, dot, names)
    if token in _FUNCTIONS and is_first:
        return _FUNCTIONS[token]
    if token in {"true", "false"}:
        return token == "true"
    raise _UnknownError(f"`{token}`")


def _found(path: str, dot: Any, names: Mapping[str, Any]) -> Any:
    """The value of a variable, or of a field of the current value; None for a field that is not there."""
    head, *fields = path.split(".")
    if head and head not in names:
        raise _UnknownError(f"`{head}` is no variable")
    value = names[head] if head else dot
    for name in filter(None, fields):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
