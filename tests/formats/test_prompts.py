"""The format of prompts: the conversation before the answer, the reference answer, and all columns."""

import pytest

from lora_ns.formats import Columns, Conversation, Prompt, RowFaultError, detect
from lora_ns.formats.base import Message

TURNS = [{"role": "user", "content": "2 + 2?"}]

ROWS = {
    "prompt": ({"prompt": "2 + 2?", "level": 3}, {}, None),
    "answer": ({"prompt": "2 + 2?", "answer": 4}, {}, "4"),
    "turns": ({"prompt": TURNS, "solution": "4"}, {}, "4"),
    "question": ({"question": "2 + 2?", "answer": "4"}, {}, "4"),
    "problem": ({"problem": "2 + 2?", "ground_truth": "4"}, {}, "4"),
    "completion": ({"prompt": TURNS, "completion": [{"role": "assistant", "content": "4"}]}, {}, "4"),
    "messages": ({"messages": [*TURNS, {"role": "assistant", "content": "4"}]}, {}, "4"),
    "messages without an answer": ({"messages": TURNS}, {}, None),
    "conversations": (
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {},
        "4",
    ),
    "alpaca": ({"instruction": "2 + 2?", "input": "", "output": "4"}, {}, "4"),
    "mapped": ({"q": "2 + 2?", "gold": "4"}, {"columns": {"prompt": "q", "answer": "gold"}}, "4"),
    "template": ({"a": 2, "b": 2, "answer": "4"}, {"prompt_template": "{a} + {b}?"}, "4"),
}


def read(values, keys):
    form, _ = detect(Columns(**keys), list(values), values, (Prompt,))
    return form, form.example(values)


@pytest.mark.parametrize(("values", "keys", "answer"), ROWS.values(), ids=ROWS)
def test_a_row_becomes_a_prompt_with_its_answer_and_all_columns(values, keys, answer):
    form, found = read(values, keys)
    assert found == Prompt(Conversation((Message("user", "2 + 2?"),)), answer, values)
    assert dict(found.values) == values
    assert form.prompt(values) == found.conversation
    assert form.used(list(values)) == list(values)
    if answer is None:
        with pytest.raises(RowFaultError, match="no column"):
            form.answer(values)
    else:
        assert form.answer(values) == answer


def test_system_and_several_turns_are_kept():
    turns = [*TURNS, {"role": "assistant", "content": "4"}, {"role": "user", "content": "sure?"}]
    _, found = read({"system": "Be short.", "messages": turns, "answer": "yes"}, {})
    assert [turn.role for turn in found.conversation.messages] == ["system", "user", "assistant", "user"]
    assert found.answer == "yes"


def test_templates_give_both_turns():
    keys = {"prompt_template": "{q}", "system_template": "You know {topic}."}
    _, found = read({"q": "Why?", "topic": "logic"}, keys)
    assert [turn.content for turn in found.conversation.messages] == ["You know logic.", "Why?"]


def test_a_column_that_is_ignored_is_not_kept():
    _, found = read({"prompt": "a", "secret": "b"}, {"ignore_columns": ("secret",)})
    assert dict(found.values) == {"prompt": "a"}


FAULTS = {
    "no prompt": ({"text": "a"}, "no column `prompt`"),
    "only an answer": ({"messages": [{"role": "assistant", "content": "4"}]}, "ends with an answer"),
    "a list as the answer": ({"prompt": "a", "answer": [1, 2]}, "instead of a text or a number"),
}


@pytest.mark.parametrize(("values", "what"), FAULTS.values(), ids=FAULTS)
def test_a_row_that_is_no_prompt_is_refused(values, what):
    with pytest.raises(RowFaultError, match=what):
        read(values, {})


def test_a_question_is_a_row():
    form, _ = read({"question": "a"}, {})
    assert form.question("b") == {"question": "b"}
