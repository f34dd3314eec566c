"""Rows with a label per answer: every common schema becomes the same example, and every unclear row is refused."""

import pytest

from lora_ns.formats import (
    Columns,
    Conversation,
    LabelledCompletion,
    Message,
    Preference,
    RowFaultError,
    detect,
    find_unused,
)

NO_KEYS = Columns()
KINDS = (LabelledCompletion, Preference)
ASKED, GOOD = {"role": "user", "content": "hi?"}, {"role": "assistant", "content": "yes"}


def turns(*said):
    return [{"role": role, "content": content} for role, content in said]


SAME = {
    "TRL's texts": {"prompt": "hi?", "completion": "yes", "label": True},
    "TRL's turns": {"prompt": [ASKED], "completion": [GOOD], "label": True},
    "ms-swift's messages": {"messages": [ASKED, GOOD], "label": True},
    "ms-swift's query": {"query": "hi?", "response": "yes", "label": True},
    "LLaMA-Factory's messages": {"messages": [ASKED, GOOD], "kto_tag": True},
    "LLaMA-Factory's conversations": {
        "conversations": [{"from": "human", "value": "hi?"}, {"from": "gpt", "value": "yes"}],
        "kto_tag": True,
    },
    "LLaMA-Factory's alpaca": {"instruction": "hi?", "input": "", "output": "yes", "kto_tag": True},
    "a label as a number": {"prompt": "hi?", "completion": "yes", "label": 1},
    "a label of Parquet with nulls": {"prompt": "hi?", "completion": "yes", "label": 1.0},
}


def example_of(row, columns=NO_KEYS):
    form, _ = detect(columns, list(row), row, KINDS)
    return form.example(row)


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_every_schema_becomes_the_same_example(row):
    form, why = detect(NO_KEYS, list(row), row, KINDS)
    assert form.name == "labelled-completion"
    expected = Conversation((Message("user", "hi?"), Message("assistant", "yes")))
    assert form.example(row) == LabelledCompletion(expected, True)
    assert form.prompt(row) == Conversation((Message("user", "hi?"),))
    assert form.answer(row) == "yes"
    assert not find_unused(form, NO_KEYS, [row]).columns
    assert "column" in why


def test_the_label_of_an_undesirable_answer_is_false_and_no_answer_to_expect():
    row = {"prompt": "hi?", "completion": "no", "label": False}
    form, _ = detect(NO_KEYS, list(row), row, KINDS)
    assert form.example(row).is_desirable is False
    with pytest.raises(RowFaultError, match="not the one to expect"):
        form.answer(row)


def test_the_last_answer_alone_is_learned():
    row = {"system": "be kind", "messages": [ASKED, GOOD, *turns(("user", "and?"), ("assistant", "no"))], "label": 0}
    found = example_of(row).conversation.messages
    assert [(turn.role, turn.train) for turn in found] == [
        ("system", None),
        ("user", None),
        ("assistant", False),
        ("user", None),
        ("assistant", None),
    ]


def test_columns_and_tools_are_read():
    row = {"q": "hi?", "a": "yes", "good": True, "tools": [{"name": "f", "parameters": {}}]}
    found = example_of(row, Columns(columns={"prompt": "q", "completion": "a", "label": "good"}))
    assert found.is_desirable
    assert found.conversation.tools


@pytest.mark.parametrize("columns", [NO_KEYS, Columns(format="preference")])
def test_pairs_are_read_as_pairs(columns):
    row = {"prompt": "hi?", "chosen": "yes", "rejected": "no"}
    assert isinstance(example_of(row, columns), Preference)


BAD = {
    "a text as label": ({"prompt": "hi?", "completion": "yes", "label": "true"}, "`label` is 'true' instead of"),
    "a score as label": ({"prompt": "hi?", "completion": "yes", "label": 5}, "`label` is 5 instead of true or false"),
    "a null label": ({"prompt": "hi?", "completion": "yes", "label": None}, "`label` is null instead of"),
    "no label": ({"prompt": "hi?", "completion": "yes"}, "no column `label`"),
    "no answer": ({"prompt": "hi?", "label": True}, "no column `completion`"),
    "an empty answer": ({"prompt": "hi?", "completion": " ", "label": True}, "`completion` is empty"),
    "no prompt": ({"completion": "yes", "label": True}, "no column `prompt`"),
    "a question last": ({"messages": [ASKED], "label": True}, "`messages` ends with a user turn"),
    "an answer alone": ({"messages": [GOOD], "label": True}, "the answer has no prompt"),
    "two answers": ({"messages": [ASKED, GOOD, GOOD], "label": True}, "the answer follows another answer"),
    "an answered prompt": (
        {"prompt": [ASKED, GOOD], "completion": "yes", "label": True},
        "the answer follows another answer",
    ),
    "a whole conversation as answer": (
        {"prompt": "hi?", "completion": [ASKED, GOOD], "label": True},
        "`completion` begins with a user turn",
    ),
}


@pytest.mark.parametrize(("row", "fault"), BAD.values(), ids=BAD)
def test_an_unclear_row_is_refused(row, fault):
    with pytest.raises(RowFaultError) as error:
        example_of(row)
    assert fault in error.value.what
    assert error.value.remedy


def test_a_later_row_without_a_label_is_refused():
    form, _ = detect(NO_KEYS, list(SAME["TRL's texts"]), SAME["TRL's texts"], KINDS)
    with pytest.raises(RowFaultError, match="no column `label`"):
        form.example({"prompt": "hi?", "completion": "yes"})
