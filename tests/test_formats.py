"""How rows become examples."""

import pytest

from lora_ns.formats import Columns, Conversation, Labelled, Message, PromptCompletion, RowFaultError, detect

QA = Columns(prompt_template="Q: {q}\nA:", completion_template=" {a}")
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def example(columns, row, task="CAUSAL_LM"):
    form, _ = detect(columns, list(row), row, task)
    return form.example(row)


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (QA, {"q": "1+1", "a": 2}, PromptCompletion("Q: 1+1\nA:", " 2")),
        (Columns(), {"prompt": "p", "completion": "c"}, PromptCompletion("p", "c")),
        (Columns(), {"messages": CHAT}, Conversation((Message("user", "hi"), Message("assistant", "yo")))),
        (
            Columns(format="messages"),
            {"prompt": "hi", "completion": "yo"},
            Conversation((Message("user", "hi"), Message("assistant", "yo"))),
        ),
    ],
)
def test_rows_of_text(columns, row, expected):
    assert example(columns, row) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"sentence1": "a", "sentence2": "b", "label": 1}, Labelled("a", "b", "1")),
        ({"text": "a", "label": "yes"}, Labelled("a", None, "yes")),
        ({"sentence": "a", "label": 3.0}, Labelled("a", None, "3")),
    ],
)
def test_rows_of_classes(row, expected):
    assert example(Columns(), row, "SEQ_CLS") == expected


@pytest.mark.parametrize(
    ("columns", "row", "told"),
    [
        (Columns(prompt_template="{qestion}", completion_template="{a}"), {"question": "q", "a": "a"}, "qestion"),
        (QA, {"q": "x", "a": " "}, "the answer is empty"),
        (QA, {"q": ["x"], "a": "y"}, "`q` is a list"),
        (Columns(), {"messages": CHAT[:1]}, "the last turn is user's"),
        (Columns(), {"messages": []}, "instead of a list of turns"),
        (Columns(), {"messages": [{"role": "bot", "content": "x"}]}, "`messages[0].role` is 'bot'"),
        (Columns(), {"messages": [{**CHAT[0], "thinking": "x"}]}, "`messages[0]` has `thinking`"),
        (Columns(), {"messages": [{"role": "user", "content": None}]}, "`messages[0].content` is null"),
        (Columns(), {"text": "x"}, "no `messages`"),
    ],
)
def test_a_faulty_row_says_what_is_wrong(columns, row, told):
    with pytest.raises(RowFaultError) as caught:
        example(columns, row)
    assert told in caught.value.what


def test_a_template_with_a_close_column_suggests_it():
    with pytest.raises(RowFaultError) as caught:
        detect(Columns(prompt_template="{qestion}", completion_template="{a}"), ["question", "a"], {}, "CAUSAL_LM")
    assert caught.value.remedy == "did you mean `question`? columns: question, a"


def test_a_bare_text_fills_the_one_field():
    form, _ = detect(QA, ["q", "a"], {"q": "x", "a": "y"}, "CAUSAL_LM")
    assert form.prompt(form.question("2+2")) == PromptCompletion("Q: 2+2\nA:")
