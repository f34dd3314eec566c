"""Preference rows: every common schema becomes the same pair, and every unclear row is refused."""

import pytest

from lora_ns.formats import Columns, Conversation, Message, Preference, RowFaultError, detect

NO_KEYS = Columns()
ASKED = {"role": "user", "content": "hi?"}
GOOD, BAD = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}


def turns(*contents: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in contents]


SAME = {
    "texts": {"prompt": "hi?", "chosen": "yes", "rejected": "no"},
    "a question": {"question": "hi?", "chosen": "yes", "rejected": "no"},
    "Argilla's input": {"input": "hi?", "chosen": "yes", "rejected": "no"},
    "alpaca": {"instruction": "hi?", "input": "", "chosen": "yes", "rejected": "no"},
    "Stack Exchange": {"question": "hi?", "response_j": "yes", "response_k": "no"},
    "TRL's explicit prompt": {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
    "TRL's implicit prompt": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "UltraFeedback": {"prompt": "hi?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 8.5},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "hi?"}],
        "chosen": {"from": "gpt", "value": "yes"},
        "rejected": {"from": "gpt", "value": "no"},
    },
    "ms-swift": {"messages": [ASKED, GOOD], "rejected_response": "no"},
    "ms-swift's messages": {"messages": [ASKED, GOOD], "rejected_messages": [ASKED, BAD]},
    "HH's prompt apart": {"prompt": "\n\nHuman: hi?\n\nAssistant:", "chosen": " yes", "rejected": " no"},
    "HH's prompt twice": {
        "prompt": "\n\nHuman: hi?\n\nAssistant:",
        "chosen": "\n\nHuman: hi?\n\nAssistant: yes",
        "rejected": "\n\nHuman: hi?\n\nAssistant: no",
    },
    "HH": {"chosen": "\n\nHuman: hi?\n\nAssistant: yes", "rejected": "\n\nHuman: hi?\n\nAssistant: no"},
}


def pair_of(row: dict[str, object], columns: Columns = NO_KEYS) -> Preference:
    form, _ = detect(columns, list(row), row, (Preference,))
    found = form.example(row)
    assert isinstance(found, Preference)
    return found


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_every_schema_becomes_the_same_pair(row):
    asked = Message("user", "hi?")
    expected = Preference(
        Conversation((asked, Message("assistant", "yes"))), Conversation((asked, Message("assistant", "no")))
    )
    assert pair_of(row) == expected


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_every_schema_has_its_prompt_and_its_preferred_answer(row):
    form, why = detect(Columns(), list(row), row, (Preference,))
    assert form.prompt(row) == Conversation((Message("user", "hi?"),))
    assert form.answer(row) == "yes"
    assert all(name in why for name in row if name not in {"score_chosen"})


def test_columns_are_mapped():
    row = {"q": "hi?", "good": "yes", "bad": "no"}
    columns = Columns(columns={"prompt": "q", "chosen": "good", "rejected": "bad"})
    assert pair_of(row, columns) == pair_of(SAME["texts"])


def test_answers_before_the_last_are_not_learned():
    before = turns(("user", "a"), ("assistant", "b"), ("user", "hi?"))
    found = pair_of({"chosen": [*before, GOOD], "rejected": [*before, BAD]})
    assert [turn.train for turn in found.chosen.messages] == [None, False, None, None]
    assert found.chosen.messages[:3] == found.rejected.messages[:3]


def test_a_dialogue_in_the_prompt_becomes_its_turns():
    prompt = "\n\nHuman: a\n\nAssistant: b\n\nHuman: hi?\n\nAssistant:"
    found = pair_of({"prompt": prompt, "chosen": " yes", "rejected": " no"})
    assert [turn.content for turn in found.chosen.messages] == ["a", "b", "hi?", "yes"]
    assert found.chosen.messages[1].train is False


def test_a_system_turn_and_a_history_come_before_the_question():
    row = {"system": "be kind", "history": [["a", "b"]], "prompt": "hi?", "chosen": "yes", "rejected": "no"}
    assert [turn.role for turn in pair_of(row).chosen.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_a_system_column_is_not_repeated():
    prompt = [{"role": "system", "content": "be kind"}, ASKED]
    row = {"system": "be kind", "chosen": [*prompt, GOOD], "rejected": [*prompt, BAD]}
    assert len(pair_of(row).chosen.messages) == 3


def test_tools_go_to_both_sides():
    row = {**SAME["texts"], "tools": [{"name": "f", "description": "", "parameters": {}}]}
    found = pair_of(row)
    assert found.chosen.tools == found.rejected.tools
    assert found.chosen.tools is not None


def test_two_equal_answers_keep_their_prompt():
    found = pair_of({"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]})
    assert found.chosen == found.rejected
    assert len(found.chosen.messages) == 2


FAULTS = {
    "no answer": ({"prompt": "hi?", "chosen": "yes"}, "no column `rejected`"),
    "a null side": ({"prompt": "hi?", "chosen": "yes", "rejected": None}, "`rejected` is null instead of an answer"),
    "an empty side": ({"prompt": "hi?", "chosen": "yes", "rejected": " "}, "`rejected` is empty"),
    "a number": ({"prompt": "hi?", "chosen": 3, "rejected": "no"}, "`chosen` is 3 instead of an answer"),
    "no prompt": ({"chosen": "yes", "rejected": "no"}, "no column `prompt`, and the answers do not contain it"),
    "another prompt": (
        {"chosen": [ASKED, GOOD], "rejected": turns(("user", "other"), ("assistant", "no"))},
        "`chosen` and `rejected` have no common prompt",
    ),
    "a later question that differs": (
        {
            "chosen": [ASKED, GOOD, *turns(("user", "x"), ("assistant", "y"))],
            "rejected": [ASKED, GOOD, *turns(("user", "z"), ("assistant", "y"))],
        },
        "turn 2 of `chosen` and `rejected` differs, but is not an answer",
    ),
    "one side without an answer": (
        {"chosen": [ASKED, GOOD], "rejected": [ASKED]},
        "`rejected` has no answer after the common prompt",
    ),
    "a prompt on one side": (
        {"chosen": [ASKED, GOOD], "rejected": "no"},
        "only one of `chosen` and `rejected` contains",
    ),
    "a prompt that says something else": (
        {"prompt": "bye?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        "`prompt` is not in the common prompt of both conversations, and would be lost",
    ),
    "a prompt that ends with an answer": (
        {"prompt": [ASKED, GOOD], "chosen": "yes", "rejected": "no"},
        "the prompt ends with an assistant turn",
    ),
    "a side that ends with a question": (
        {"chosen": [ASKED, GOOD, *turns(("user", "x"))], "rejected": [ASKED, BAD]},
        "`chosen` ends with a user turn",
    ),
    "two system turns": (
        {
            "system": "be kind",
            "chosen": [*turns(("system", "be short")), ASKED, GOOD],
            "rejected": [*turns(("system", "be short")), ASKED, BAD],
        },
        "both `system` and a system turn are given",
    ),
    "a conversation without an answer": (
        {"messages": [ASKED], "rejected_response": "no"},
        "no column `chosen`, and `messages` does not end with an answer",
    ),
}


@pytest.mark.parametrize(("row", "told"), FAULTS.values(), ids=FAULTS)
def test_an_unclear_row_is_refused_with_its_reason(row, told):
    with pytest.raises(RowFaultError) as fault:
        pair_of(row)
    assert fault.value.what.startswith(told)
    assert fault.value.remedy


def test_rows_with_one_answer_are_not_preference_rows():
    row = {"prompt": "hi?", "completion": "yes"}
    with pytest.raises(RowFaultError, match="no column `rejected`"):
        detect(Columns(), list(row), row, (Preference,))


def test_a_prompt_alone_is_enough_to_answer():
    form, _ = detect(Columns(), list(SAME["texts"]), SAME["texts"], (Preference,))
    assert form.prompt(form.question("hi?")) == Conversation((Message("user", "hi?"),))
