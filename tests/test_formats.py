"""How rows become examples."""

import pytest

from lora_ns.formats import (
    FORMATS,
    ROLES,
    Columns,
    Conversation,
    Labelled,
    Message,
    PromptCompletion,
    RowFaultError,
    detect,
)

QA = Columns(prompt_template="Q: {q}\nA:", completion_template=" {a}")
CHAT_QA = Columns(format="messages", system_template="Be {how}.", prompt_template="{q}", completion_template="{a}")
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
TURNS = (Message("user", "hi"), Message("assistant", "yo"))
PAIR = Columns(text_column="s", text_pair_column="t")


def formed(columns, row, task="CAUSAL_LM"):
    return detect(columns, list(row), row, task)[0]


def fault(call, *arguments):
    with pytest.raises(RowFaultError) as caught:
        call(*arguments)
    return f"{caught.value.what} ({caught.value.remedy})"


# What each format makes of a row: the example to learn from, the prompt to answer, the answer

MADE = {
    "templates": (
        (QA, {"q": "1+1", "a": 2}),
        (PromptCompletion("Q: 1+1\nA:", " 2"), PromptCompletion("Q: 1+1\nA:"), " 2"),
    ),
    "prompt and completion": (
        (Columns(), {"prompt": "p", "completion": "c"}),
        (PromptCompletion("p", "c"), PromptCompletion("p"), "c"),
    ),
    "numbers in columns": (
        (Columns(), {"prompt": 1.5, "completion": 3}),
        (PromptCompletion("1.5", "3"), PromptCompletion("1.5"), "3"),
    ),
    "literal braces": (
        (Columns(prompt_template="{{{q}}}", completion_template="{a}{a}"), {"q": "x", "a": "y"}),
        (PromptCompletion("{x}", "yy"), PromptCompletion("{x}"), "yy"),
    ),
    "messages": (
        (Columns(), {"messages": CHAT}),
        (Conversation(TURNS), Conversation(TURNS[:1]), "yo"),
    ),
    "two rounds": (
        (Columns(), {"messages": [*CHAT, {"role": "user", "content": "so"}, {"role": "assistant", "content": "ok"}]}),
        (
            Conversation((*TURNS, Message("user", "so"), Message("assistant", "ok"))),
            Conversation((*TURNS, Message("user", "so"))),
            "ok",
        ),
    ),
    "texts as turns": (
        (Columns(format="messages"), {"prompt": "hi", "completion": "yo"}),
        (Conversation(TURNS), Conversation(TURNS[:1]), "yo"),
    ),
    "lists as turns": (
        (Columns(), {"prompt": CHAT[:1], "completion": CHAT[1:]}),
        (Conversation(TURNS), Conversation(TURNS[:1]), "yo"),
    ),
    "templates as turns": (
        (CHAT_QA, {"q": "hi", "a": "yo", "how": "kind"}),
        (
            Conversation((Message("system", "Be kind."), *TURNS)),
            Conversation((Message("system", "Be kind."), TURNS[0])),
            "yo",
        ),
    ),
}


@pytest.mark.parametrize(("given", "expected"), MADE.values(), ids=MADE)
def test_a_row_of_text_is_an_example_a_prompt_and_an_answer(given, expected):
    columns, row = given
    form = formed(columns, row)
    assert (form.example(row), form.prompt(row), form.answer(row)) == expected


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (Columns(), {"sentence1": "a", "sentence2": "b", "label": 1}, Labelled("a", "b", "1")),
        (Columns(), {"premise": "a", "hypothesis": "b", "label": 0}, Labelled("a", "b", "0")),
        (Columns(), {"question": "a", "sentence": "b", "label": 0}, Labelled("a", "b", "0")),
        (Columns(), {"text": "a", "text_pair": "b", "label": 0}, Labelled("a", "b", "0")),
        (Columns(), {"text": "a", "label": "yes"}, Labelled("a", None, "yes")),
        (Columns(), {"sentence": "a", "label": 3.0}, Labelled("a", None, "3")),
        (Columns(), {"review": "a", "label": "x"}, Labelled("a", None, "x")),
        (PAIR, {"s": "a", "t": "b", "label": "x"}, Labelled("a", "b", "x")),
        (Columns(text_column="t", label_column="y"), {"s": "a", "t": "b", "y": "x"}, Labelled("b", None, "x")),
    ],
)
def test_a_row_with_a_class_is_an_example_a_prompt_and_an_answer(columns, row, expected):
    form = formed(columns, row, "SEQ_CLS")
    assert form.example(row) == expected
    assert form.prompt(row) == Labelled(expected.text, expected.text_pair)
    assert form.answer(row) == expected.label


@pytest.mark.parametrize(
    ("columns", "row", "task", "answer"),
    [
        (QA, {"q": "x", "a": "y"}, "CAUSAL_LM", "a"),
        (CHAT_QA, {"q": "x", "how": "kind", "a": "y"}, "CAUSAL_LM", "a"),
        (Columns(), {"prompt": "x", "completion": "y"}, "CAUSAL_LM", "completion"),
        (Columns(format="messages"), {"prompt": "x", "completion": "y"}, "CAUSAL_LM", "completion"),
        (Columns(), {"text": "x", "label": 0}, "SEQ_CLS", "label"),
    ],
)
def test_a_prompt_needs_no_answer(columns, row, task, answer):
    form = formed(columns, row, task)
    bare = {key: value for key, value in row.items() if key != answer}
    assert form.prompt(bare) == form.prompt(row)


def test_a_conversation_without_its_answer_is_the_same_prompt():
    form = formed(Columns(), {"messages": CHAT})
    assert form.prompt({"messages": CHAT[:1]}) == form.prompt({"messages": CHAT})


# A bare text


@pytest.mark.parametrize(
    ("columns", "row", "task", "expected"),
    [
        (QA, {"q": "x", "a": "y"}, "CAUSAL_LM", {"q": "2+2"}),
        (Columns(), {"prompt": "x", "completion": "y"}, "CAUSAL_LM", {"prompt": "2+2"}),
        (Columns(), {"messages": CHAT}, "CAUSAL_LM", {"messages": [{"role": "user", "content": "2+2"}]}),
        (
            Columns(format="messages", prompt_template="{q}", completion_template="{a}"),
            {"q": "x", "a": "y"},
            "CAUSAL_LM",
            {"q": "2+2"},
        ),
        (Columns(), {"sentence": "x", "label": 0}, "SEQ_CLS", {"sentence": "2+2"}),
    ],
)
def test_a_bare_text_is_the_one_column_of_a_row(columns, row, task, expected):
    form = formed(columns, row, task)
    assert form.question("2+2") == expected
    assert form.prompt(form.question("2+2")) == form.prompt({**row, **expected})


@pytest.mark.parametrize(
    ("columns", "row", "task", "told"),
    [
        (
            Columns(prompt_template="{p}{q}", completion_template="{a}"),
            {"p": "x", "q": "x", "a": "y"},
            "CAUSAL_LM",
            "the prompt has 2 columns (p, q), and one text was given (put the columns into a .jsonl file)",
        ),
        (
            Columns(),
            {"sentence1": "a", "sentence2": "b", "label": 1},
            "SEQ_CLS",
            "a pair of texts is classified, and one was given (put both into a .jsonl file)",
        ),
    ],
)
def test_a_bare_text_is_refused_where_a_row_has_more(columns, row, task, told):
    assert fault(formed(columns, row, task).question, "2+2") == told


# Which format


@pytest.mark.parametrize(
    ("columns", "row", "task", "name", "why"),
    [
        (Columns(), {"messages": CHAT}, "CAUSAL_LM", "messages", "column `messages`"),
        (Columns(), {"messages": CHAT, "prompt": "", "completion": ""}, "CAUSAL_LM", "messages", "column `messages`"),
        (
            Columns(),
            {"prompt": "", "completion": ""},
            "CAUSAL_LM",
            "prompt-completion",
            "columns `prompt` and `completion`",
        ),
        (Columns(), {"prompt": [], "completion": []}, "CAUSAL_LM", "messages", "columns `prompt` and `completion`"),
        (QA, {"q": "", "a": "", "messages": ""}, "CAUSAL_LM", "prompt-completion", "templates in the recipe"),
        (Columns(format="messages"), {"prompt": ""}, "CAUSAL_LM", "messages", '`format = "messages"`'),
        (
            Columns(format="prompt-completion"),
            {"messages": ""},
            "CAUSAL_LM",
            "prompt-completion",
            '`format = "prompt-completion"`',
        ),
        (Columns(), {"text": "", "label": ""}, "SEQ_CLS", "classification", "columns `text`"),
        (
            Columns(),
            {"sentence2": "", "sentence1": "", "label": ""},
            "SEQ_CLS",
            "classification",
            "columns `sentence1`, `sentence2`",
        ),
        (PAIR, {"s": "", "t": "", "label": ""}, "SEQ_CLS", "classification", "`s`, `t` in the recipe"),
    ],
)
def test_the_columns_tell_the_format(columns, row, task, name, why):
    form, reason = detect(columns, list(row), row, task)
    assert (form.name, reason) == (name, why)
    assert isinstance(form, FORMATS[name])


@pytest.mark.parametrize(
    ("columns", "row", "task", "told"),
    [
        (
            Columns(),
            {"text": "x", "id": 1},
            "CAUSAL_LM",
            "no `messages`, and no `prompt` with `completion`, among the columns `text`, `id` "
            "(say how a row becomes text: `prompt_template` and `completion_template` with `{column}` in them)",
        ),
        (
            Columns(prompt_template="{qestion}", completion_template="{a}"),
            {"question": "q", "a": "a"},
            "CAUSAL_LM",
            "dataset.prompt_template: names column `qestion`, which the data does not have "
            "(did you mean `question`? columns: question, a)",
        ),
        (
            Columns(prompt_template="{a}", completion_template="{zzz}"),
            {"a": "a"},
            "CAUSAL_LM",
            "dataset.completion_template: names column `zzz`, which the data does not have (columns: a)",
        ),
        (
            Columns(text_column="txt"),
            {"text": "a", "label": 0},
            "SEQ_CLS",
            "dataset.text_column: `txt` is not a column of the data (did you mean `text`? columns: text, label)",
        ),
        (Columns(), {"text": "a"}, "SEQ_CLS", "no column `label` among `text` (name it by `label_column`)"),
        (
            Columns(),
            {"body": "a", "label": 0},
            "SEQ_CLS",
            "no text among the columns `body`, `label` (name it by `text_column`)",
        ),
    ],
)
def test_columns_that_fit_no_format_are_told(columns, row, task, told):
    assert fault(detect, columns, list(row), row, task) == told


# Faulty rows

TURN = 'write `{"role": ..., "content": ...}`'


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (CHAT[:1], "the last turn is user's (a row to learn from ends with an assistant turn)"),
        ([], "`messages` is a list instead of a list of turns ()"),
        ("hi", "`messages` is 'hi' instead of a list of turns ()"),
        (None, "`messages` is null instead of a list of turns ()"),
        (["hi"], f"`messages[0]` is 'hi' instead of a turn ({TURN})"),
        ([CHAT[0], {"role": "bot", "content": "x"}], f"`messages[1].role` is 'bot' (one of: {', '.join(ROLES)})"),
        ([{"content": "x"}], f"`messages[0].role` is null (one of: {', '.join(ROLES)})"),
        (
            [{**CHAT[0], "thinking": "x"}],
            "`messages[0]` has `thinking`, which would be lost (a turn has `role` and `content`)",
        ),
        ([{"role": "user", "content": None}], "`messages[0].content` is null instead of text ()"),
        ([{"role": "user", "content": [{"text": "x"}]}], "`messages[0].content` is a list instead of text ()"),
        ([{"role": "user", "content": {}}], "`messages[0].content` is an object instead of text ()"),
        ([{"role": "user"}], "`messages[0].content` is null instead of text ()"),
        (
            [CHAT[0], {"role": "assistant", "content": " \n"}],
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
    ],
)
def test_faulty_turns_are_told(messages, told):
    row = {"messages": messages}
    assert fault(formed(Columns(), row).example, row) == told


@pytest.mark.parametrize("role", [role for role in ROLES if role != "assistant"])
def test_a_turn_that_is_no_answer_may_be_empty(role):
    row = {"messages": [{"role": role, "content": ""}, CHAT[1]]}
    assert formed(Columns(), row).example(row).messages[0] == Message(role, "")


@pytest.mark.parametrize(
    ("columns", "row", "told"),
    [
        (QA, {"q": "x", "a": " "}, "the answer is empty (it would teach the model to say nothing; remove the row)"),
        (QA, {"q": ["x"], "a": "y"}, "`q` is a list instead of text ()"),
        (QA, {"q": None, "a": "y"}, "`q` is null instead of text ()"),
        (QA, {"q": True, "a": "y"}, "`q` is true or false instead of text ()"),
        (
            Columns(),
            {"prompt": "p", "completion": ""},
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
        (
            Columns(format="messages"),
            {"prompt": "p", "completion": ""},
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
        (Columns(format="messages"), {"prompt": "p"}, "no column `completion` (columns: prompt)"),
        (Columns(format="prompt-completion"), {"text": "p"}, "no column `prompt` (columns: text)"),
    ],
)
def test_a_faulty_row_of_text_says_what_is_wrong(columns, row, told):
    assert fault(formed(columns, row).example, row) == told


def test_a_column_that_only_some_rows_have_is_told():
    form = formed(QA, {"q": "x", "a": "y"})
    assert fault(form.example, {"q": "x", "b": "y"}) == "no column `a` (columns: q, b)"


@pytest.mark.parametrize(
    ("label", "shown"), [(None, "null"), (1.5, "1.5"), (True, "true or false"), ("", "''"), ([1], "a list")]
)
def test_what_is_no_class_is_told(label, shown):
    row = {"text": "x", "label": label}
    told = f"`label` is {shown} (a class is a name or a whole number)"
    assert fault(formed(Columns(), row, "SEQ_CLS").example, row) == told


@pytest.mark.parametrize("messages", [CHAT[1:], [CHAT[1], CHAT[1]]])
def test_there_is_nothing_to_answer_without_a_turn_before(messages):
    row = {"messages": messages}
    assert fault(formed(Columns(), row).prompt, row) == "no turn to answer (give a user turn)"


def test_a_long_value_is_shown_shortened():
    row = {"messages": "x" * 100}
    assert fault(formed(Columns(), row).example, row) == f"`messages` is '{'x' * 36}... instead of a list of turns ()"
