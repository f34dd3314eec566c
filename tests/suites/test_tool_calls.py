"""Tool calls of answers, in the forms of chat templates, equal the expected ones or do not."""

import json

import pytest

pytest.importorskip("numpy")

from lora_ns.formats import RowFaultError
from lora_ns.statistics.groups import Groups
from lora_ns.suites import Gold
from lora_ns.suites.tool_calls import ToolCallsSuite

WEATHER = {"name": "weather", "arguments": {"city": "Oslo", "days": 2, "hourly": True}}
CLOCK = {"name": "clock", "arguments": {}}


def _tagged(*calls):
    return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


def _turn(*calls):
    return [{"type": "function", "function": call} for call in calls]


def figures(suite, gold, *answers):
    measures = suite.measure([gold] * len(answers), answers)
    values = {name: one.of(Groups.of(len(answers), None)).value() for name, one in measures.items()}
    assert list(values) == ["tool_calls", "tool_names"]
    return tuple(values.values())


BOTH = Gold("row", None, tool_calls=_turn(WEATHER, CLOCK))
PLAIN = json.dumps([WEATHER, CLOCK])


@pytest.mark.parametrize(
    "answer",
    [
        _tagged(WEATHER, CLOCK),
        _tagged(CLOCK, WEATHER),
        f"I look it up.\n{_tagged(WEATHER, CLOCK)}",
        _tagged(WEATHER, CLOCK).removesuffix("</tool_call>"),
        _tagged([WEATHER, CLOCK]),
        f"<think>\nPerhaps <tool_call>?</tool_call></think>{_tagged(WEATHER, CLOCK)}",
        PLAIN,
        f"\n{PLAIN}\n",
        f"{json.dumps(CLOCK)}\n{json.dumps(WEATHER)}",
        f"[TOOL_CALLS] {PLAIN}",
        f"<|python_tag|>{json.dumps(WEATHER)}; {json.dumps(CLOCK)}",
        json.dumps(_turn(WEATHER, CLOCK)),
        json.dumps([{"name": call["name"], "parameters": call["arguments"]} for call in (WEATHER, CLOCK)]),
        json.dumps([{**call, "arguments": json.dumps(call["arguments"])} for call in (WEATHER, CLOCK)]),
        PLAIN.replace("2", "2.0"),
    ],
)
def test_calls_are_read_in_the_forms_of_templates(answer):
    assert figures(ToolCallsSuite(), BOTH, answer) == (1.0, 1.0)


@pytest.mark.parametrize(
    "changed",
    [{"city": "oslo"}, {"days": "2"}, {"days": 2.5}, {"hourly": 1}, {"hourly": None}, {"more": None}],
)
def test_other_arguments_have_the_right_name_alone(changed):
    call = {**WEATHER, "arguments": {**WEATHER["arguments"], **changed}}
    assert figures(ToolCallsSuite(), BOTH, _tagged(call, CLOCK)) == (0.0, 1.0)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "It rains.",
        _tagged(WEATHER),
        _tagged(WEATHER, CLOCK, CLOCK),
        _tagged(WEATHER, {**CLOCK, "name": "clocks"}),
        _tagged(WEATHER, {"name": "clock"}),
        _tagged(WEATHER, {"name": "clock", "arguments": []}),
        _tagged(WEATHER, {"name": "clock", "arguments": "{"}),
        _tagged(WEATHER, "clock"),
        f"{_tagged(WEATHER)}\n<tool_call>clock()</tool_call>",
        f"{_tagged(WEATHER)}\n<tool_call></tool_call>",
        f"Here: {PLAIN}",
        f"{PLAIN} Done.",
        PLAIN[:-3],
        "[" * 100_000,
        '{"name": "clock", "arguments": {"a": NaN}}',
        f'{{"name": "clock", "arguments": {{"a": {"9" * 5000}}}}}',
    ],
)
def test_other_calls_and_text_that_cannot_be_read_are_wrong(answer):
    assert figures(ToolCallsSuite(), BOTH, answer) == (0.0, 0.0)


def test_expected_calls_come_from_the_turn_the_text_or_a_column():
    suite = ToolCallsSuite()
    for gold in (Gold("row", None, tool_calls=_turn(WEATHER)), Gold("row", _tagged(WEATHER))):
        suite.check(gold)
        assert figures(suite, gold, _tagged(WEATHER), _tagged(CLOCK)) == (0.5, 0.5)
    suite = ToolCallsSuite(column="calls")
    for value in ([WEATHER], json.dumps([WEATHER]), _tagged(WEATHER), _turn(WEATHER)):
        gold = Gold("row", "It rains.", {"calls": value})
        suite.check(gold)
        assert figures(suite, gold, _tagged(WEATHER), _tagged(CLOCK)) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("gold", "column", "what"),
    [
        (Gold("row", None), None, "no reference answer"),
        (Gold("row", "It rains."), None, "calls no tool"),
        (Gold("row", '{"rain": true}'), None, "JSON, but no tool call"),
        (Gold("row", "x", {"calls": "weather()"}), "calls", "no tool calls that can be read"),
        (Gold("row", "x", {"calls": None}), "calls", "instead of a list"),
        (Gold("row", "x", {}), "calls", "instead of a list"),
        (Gold("row", "x", {"calls": []}), "calls", "calls no tool"),
        (Gold("row", "x", {"calls": [{"name": 1}]}), "calls", "names no function"),
        (Gold("row", None, {}, "[weather(city='Oslo')]", _turn(WEATHER)), None, "a form that is not read"),
        (Gold("row", None, {}, "weather: Oslo", _turn(WEATHER)), None, "a form that is not read"),
    ],
)
def test_rows_without_calls_that_answers_could_equal_are_refused(gold, column, what):
    with pytest.raises(RowFaultError) as caught:
        ToolCallsSuite(column=column).check(gold)
    assert what in caught.value.what
    assert caught.value.remedy


def test_rows_without_a_call_may_expect_none():
    suite, gold = ToolCallsSuite(on_no_call="expect-none"), Gold("row", "It rains.")
    suite.check(gold)
    assert figures(suite, gold, "It may rain.", _tagged(CLOCK), "", "{") == (0.5, 0.5)
