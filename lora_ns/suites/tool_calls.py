"""`tool-calls`: the answer calls the expected tools with the expected arguments."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from lora_ns.files.reading import check_depth, finite
from lora_ns.formats import RowFaultError
from lora_ns.formats.turns import read_tool_calls
from lora_ns.statistics import Measure, share
from lora_ns.suites.base import Gold, Suite
from lora_ns.table import Column

Call = tuple[str, str]
"""The name of a tool, and its arguments as JSON in one spelling."""

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)

_MARKS = ("[TOOL_CALLS]", "<|python_tag|>")
"""Tokens before tool calls in the templates of Mistral and Llama."""

_BETWEEN = re.compile(r"[\s;,]*")


class _NoCallError(ValueError):
    """JSON that is no tool call."""


class ToolCallsSuite(Suite):
    """Share of answers whose tool calls are those of the reference answer: names and arguments, in any order."""

    kind: Literal["tool-calls"] = "tool-calls"
    column: Column | None = None
    """Column with the expected calls, a list or its JSON; by default those of the reference answer of the row."""
    on_no_call: Literal["error", "expect-none"] = "error"
    """Rows whose reference answer calls no tool: refuse them, or expect that none is called."""

    def check(self, gold: Gold) -> None:
        """Check that the row has tool calls, in a form that can be read from answers. Raises `RowFaultError`."""
        expected = self._expected(gold)
        if not expected and self.on_no_call == "error":
            remedy = 'remove the row, or write `on_no_call = "expect-none"`'
            raise RowFaultError("the reference answer calls no tool", remedy)
        if gold.rendered and self.column is None and calls_in(gold.rendered) != expected:
            what = "the chat template writes its tool calls in a form that is not read from answers"
            raise RowFaultError(what, 'choose a template that writes JSON, such as `chat_template = "chatml"`')

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`tool_calls`, names with arguments, and `tool_names`, names alone. What cannot be read is wrong."""
        expected = [self._expected(gold) for gold in golds]
        found = [calls_in(answer) for answer in answers]
        pairs = list(zip(found, expected, strict=True))
        return {
            "tool_calls": share([one == other for one, other in pairs]),
            "tool_names": share([one is not None and _names(one) == _names(other) for one, other in pairs]),
        }

    def _expected(self, gold: Gold) -> Counter[Call]:
        """The expected calls. Raises `RowFaultError`."""
        if self.column is not None:
            return _of_column(gold.values.get(self.column), self.column)
        if gold.tool_calls:
            return Counter(call for one in gold.tool_calls for call in _calls_of(one))
        calls = calls_in(gold.expected())
        if calls is None:
            raise RowFaultError("the reference answer is JSON, but no tool call", "name the column of the calls")
        return calls


def calls_in(text: str) -> Counter[Call] | None:
    """The tool calls of an answer; None if it begins some that cannot be read.

    Calls are JSON between `<tool_call>` tags, or the whole answer is JSON: objects, or a list of them. Reasoning before
    them does not count.
    """
    text = text.rpartition("</think>")[2]
    parts: list[str] = _TAGGED.findall(text)
    if not parts:
        marked = next((text.partition(mark)[2] for mark in _MARKS if mark in text), None)
        bare = (text if marked is None else marked).strip()
        if marked is None and bare[:1] not in {"{", "["}:
            return Counter()
        parts = [bare]
    try:
        return Counter(call for part in parts for value in _values(part) for call in _calls_of(value))
    except (ValueError, RecursionError):
        return None


def _values(text: str) -> Iterator[Any]:
    """The JSON values of a text, which follow one another. Raises `ValueError` if there are none or anything else."""
    decoder = json.JSONDecoder(parse_float=finite, parse_constant=finite)
    place = _end_of(_BETWEEN, text, 0)
    if place == len(text):
        raise ValueError("no JSON")
    while place < len(text):
        value, end = decoder.raw_decode(text, place)
        check_depth(value)
        yield value
        place = _end_of(_BETWEEN, text, end)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _calls_of(value: Any) -> Iterator[Call]:
    """The calls in a JSON value: an object, or a list of them. Raises `_NoCallError` for anything else."""
    if isinstance(value, list):
        for one in value:
            yield from _calls_of(one)
        return
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping):
        raise _NoCallError("no call")
    name, arguments = function.get("name"), function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments, parse_float=finite, parse_constant=finite)
        check_depth(arguments)
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise _NoCallError("no call")
    yield name, json.dumps(_plain(arguments), sort_keys=True)


def _plain(value: Any) -> Any:
    """A JSON value with numbers in one spelling: 2.0 is 2."""
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _names(calls: Counter[Call]) -> Counter[str]:
    return Counter(name for name, _ in calls.elements())


def _of_column(value: Any, column: str) -> Counter[Call]:
    """The calls of a column. Raises `RowFaultError`."""
    if isinstance(value, str):
        calls = calls_in(value)
        if calls is None or not (calls or value.strip() == "[]"):
            raise RowFaultError(
                f"`{column}` has no tool calls that can be read", 'write JSON: `[{"name": ..., "arguments": {...}}]`'
            )
        return calls
    return Counter(call for one in read_tool_calls(value, column) for call in _calls_of(one))
