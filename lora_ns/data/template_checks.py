"""Checks that a chat template shows all parts of a row; a part that it does not print would be lost silently."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.formats import Conversation, Message, RowFaultError

_MARK, _VALUE = "loransmark", "loransvalue"
"""Words that appear in no row, of letters only, so that escaping, trimming and wrapping leave them intact."""


_REASONING = ("reasoning_content", "thinking")


_MERGE = 'write `system_role = "merge-into-user"` in the table of the objective'


OTHER_TEMPLATE = (
    "set `chat_template` of the objective to another one, such as `chatml` or a .jinja file, or remove it from the rows"
)


_OWN_TEMPLATE = "remove it from the rows, or set `chat_template` of the objective to a .jinja file that prints it"
"""Remedy for parts that none of the built-in templates prints."""


Render = Callable[[Conversation], str | None]
"""Renders a conversation, with a generation prompt if the last turn is not an answer; None if it is refused."""


@dataclass(frozen=True)
class _Feature:
    """A part of a row that a template may not show, and the row with a mark in its place."""

    name: str
    marked: Conversation
    turn: int
    marks: tuple[str, ...] = (_MARK,)


def check_shown(conversation: Conversation, known: dict[Hashable, bool], render: Render) -> None:
    """Refuse a row whose tools, tool calls, tool answers or the like are not printed by the template.

    A template decides by roles and keys, so rows that agree in them are checked once.

    Args:
        conversation: a row that the template renders.
        known: results so far, by kind; new results are added.
        render: renders with the template.

    Raises:
        RowFaultError: with the first part that is not shown.
    """
    for kind, make in _features(conversation):
        if kind not in known:
            shown = _is_shown(make(), render)
            if shown is None:
                continue  # the template refuses the mark, which says nothing about the row
            known[kind] = shown
        if not known[kind]:
            name = make().name
            raise RowFaultError(f"the chat template does not show {name}, which would be lost", _remedy(name), "TPL004")


def _is_shown(feature: _Feature, render: Render) -> bool | None:
    """Check that each mark is in the text, up to its turn or as a whole; None if neither can be rendered."""
    up_to = replace(feature.marked, messages=feature.marked.messages[: feature.turn + 1])
    texts = [text for text in map(render, dict.fromkeys((up_to, feature.marked))) if text is not None]
    return any(all(mark in text for mark in feature.marks) for text in texts) if texts else None


def _remedy(name: str) -> str:
    if "system" in name:
        return _MERGE
    return _OWN_TEMPLATE if name.strip("`") in ("name", *_REASONING) else OTHER_TEMPLATE


def check_merged(system: Message) -> None:
    """Refuse a named system turn that is merged into the user turn, because the name would be lost."""
    if _is_filled(system.extra.get("name", "")):
        what = "`name` of the system turn would be lost, because it becomes part of the user turn"
        raise RowFaultError(what, "remove it from the rows", "TPL004")


def _features(conversation: Conversation) -> Iterator[tuple[Hashable, Callable[[], _Feature]]]:
    """Yield the parts of a row that not every template shows: their kind, and a function that marks them."""
    messages, tools = conversation.messages, conversation.tools
    if tools:
        last = len(messages) - 1
        yield (
            ("tools", messages[0].role),
            lambda: _Feature("tools", replace(conversation, tools=_marked_tools(tools)), last),
        )
    for number, message in enumerate(messages):
        if not message.extra and message.role in {"user", "assistant"}:
            continue
        before = messages[number - 1].role if number else ""
        calls = message.extra.get("tool_calls", ())
        about = (bool(message.content), tuple(sorted(message.extra)), min(len(calls), 2), _has_arguments(calls))
        context = (message.role, before, bool(tools), *about)
        for name, turn in _marked_turns(message, messages[:number]):
            yield (name, *context), _in_place(conversation, number, name, turn)


def _in_place(conversation: Conversation, number: int, name: str, turn: Message) -> Callable[[], _Feature]:
    messages = conversation.messages
    has_value = name == "tool calls" and _has_arguments(messages[number].extra["tool_calls"])
    marks = (_MARK, _VALUE) if has_value else (_MARK,)

    def make() -> _Feature:
        marked = replace(conversation, messages=(*messages[:number], turn, *messages[number + 1 :]))
        return _Feature(name, marked, number, marks)

    return make


def _marked_turns(message: Message, before: Sequence[Message]) -> Iterator[tuple[str, Message]]:
    """Yield turns with a mark in the place of each part that may not be shown, by the name of the part."""
    if message.role == "system" and message.content.strip():
        yield "the system turn", replace(message, content=_MARK)
    if message.role == "tool":
        yield "turns of the role `tool`", replace(message, content=_MARK)
    if "tool_calls" in message.extra:
        yield "tool calls", _with(message, tool_calls=[_marked_call(call) for call in message.extra["tool_calls"]])
        if message.content.strip():
            yield "the text beside tool calls", replace(message, content=_MARK)
    for key in _REASONING:
        if key in message.extra:
            yield f"`{key}`", _with(message, **{key: _MARK})
    if _is_filled(message.extra.get("name", "")) and not _is_known(message, before):
        yield "`name`", _with(message, name=_MARK)


def _is_filled(name: str) -> bool:
    return bool(name.strip())


def _is_known(message: Message, before: Sequence[Message]) -> bool:
    """True if a name is a tool's and appears in earlier turns: in the answered call, or in a text."""
    name = message.extra["name"]
    return message.role == "tool" and any(
        name in turn.content or any(call["function"]["name"] == name for call in turn.extra.get("tool_calls", ()))
        for turn in before
    )


def _with(message: Message, **changed: Any) -> Message:
    return replace(message, extra={**message.extra, **changed})


def _marked_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**call, "function": {"name": _MARK, "arguments": {"argument": _VALUE} if _has_arguments([call]) else {}}}


def _has_arguments(calls: Sequence[Mapping[str, Any]]) -> bool:
    return any(call["function"]["arguments"] for call in calls)


def _marked_tools(tools: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    return tuple({**tool, "function": {**tool["function"], "name": _MARK}} for tool in tools)


def refusal(conversation: Conversation, reason: str, render: Render) -> RowFaultError:
    """Explain why a template refuses a row, by leaving out parts of it."""
    without_tools = replace(conversation, messages=_without_tools(conversation), tools=None)
    is_short = len(without_tools.messages) < len(conversation.messages)
    if (is_short or conversation.tools) and any(
        _renders(other, render) for other in _and_without_system(without_tools)
    ):
        what = f"the chat template does not support tools, tool calls and tool answers: {reason}"
        return RowFaultError(what, OTHER_TEMPLATE, "TPL003")
    rest = [other for other in _and_without_system(conversation) if other is not conversation]
    has_system = any(_renders(other, render) for other in rest)
    opens = next((message.role for message in conversation.messages if message.role != "system"), "")
    change = "begin with a user turn" if opens in {"assistant", "tool"} else "change its turns"
    remedy = _MERGE if has_system else change
    return RowFaultError(f"the chat template refuses the row: {reason}", remedy, "TPL003")


def _without_tools(conversation: Conversation) -> tuple[Message, ...]:
    return tuple(
        message for message in conversation.messages if message.role != "tool" and "tool_calls" not in message.extra
    )


def _and_without_system(conversation: Conversation) -> Iterator[Conversation]:
    yield conversation
    if conversation.messages and conversation.messages[0].role == "system":
        yield replace(conversation, messages=conversation.messages[1:])


def _renders(conversation: Conversation, render: Render) -> bool:
    return bool(conversation.messages) and render(conversation) is not None
