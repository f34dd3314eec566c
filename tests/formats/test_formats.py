"""How rows become examples."""

import json
from dataclasses import asdict
from typing import get_args

import pytest

from lora_ns.formats import (
    FORMATS,
    ROLES,
    Columns,
    Conversation,
    Labelled,
    Message,
    PromptCompletion,
    RawText,
    RowFaultError,
    detect,
)
from lora_ns.formats.cells import parsed
from lora_ns.objectives import objective_of
from lora_ns.recipe.dataset import Dataset

QA = Columns(prompt_template="Q: {q}\nA:", completion_template=" {a}")
CHAT_QA = Columns(format="messages", system_template="Be {how}.", prompt_template="{q}", completion_template="{a}")
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
TURNS = (Message("user", "hi"), Message("assistant", "yo"))
PAIR = Columns(text_column="s", text_pair_column="t")


def formed(columns, row, task="CAUSAL_LM"):
    return detect(columns, list(row), row, objective_of(task).examples)[0]


def fault(call, *arguments):
    with pytest.raises(RowFaultError) as caught:
        call(*arguments)
    key = f"dataset.{caught.value.key}: " if caught.value.key else ""
    return f"{key}{caught.value.what} ({caught.value.remedy})"


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


WITH_INPUT = {"prompt_template": "{i} ({x})", "fallback_prompt_templates": ["{i}!"], "completion_template": "{o}"}


@pytest.mark.parametrize(
    ("given", "asked"),
    [("b", "a (b)"), ("", "a!"), (None, "a!"), ("absent", "a!"), (" ", "a ( )")],
)
@pytest.mark.parametrize("form", ["auto", "messages"])
def test_a_row_without_a_column_of_the_prompt_has_the_first_prompt_that_it_fills(given, asked, form):
    row = {"i": "a", "x": given, "o": "yes"}
    if given == "absent":
        del row["x"]
    made = formed(Columns(format=form, **WITH_INPUT), row).example(row)
    assert (made.prompt if form == "auto" else made.messages[0].content) == asked


def test_columns_that_all_prompts_have_do_not_choose_between_them():
    row = {"i": "", "x": "b", "o": "yes"}
    assert formed(Columns(**WITH_INPUT), row).example(row).prompt == " (b)"


def test_one_text_fills_the_prompt_that_has_one_column():
    assert formed(Columns(**WITH_INPUT), {"i": "a", "x": "", "o": "c"}).question("hi") == {"i": "hi"}


def test_of_several_prompts_one_has_to_have_its_columns():
    with pytest.raises(RowFaultError, match="names column `i`"):
        formed(Columns(**WITH_INPUT), {"x": "b", "o": "c"})


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
            "the prompt needs 2 columns (p, q), but only one text was given (write the columns to a .jsonl file)",
        ),
        (
            Columns(),
            {"sentence1": "a", "sentence2": "b", "label": 1},
            "SEQ_CLS",
            "a pair of texts is needed, but only one was given (write both to a .jsonl file)",
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
        (Columns(), {"messages": CHAT, "prompt": ""}, "CAUSAL_LM", "messages", "column `messages`"),
        (Columns(), {"id": 1, "messages": CHAT, "tools": "[]"}, "CAUSAL_LM", "messages", "columns `messages`, `tools`"),
        (
            Columns(),
            {"prompt": "", "completion": ""},
            "CAUSAL_LM",
            "prompt-completion",
            "columns `prompt`, `completion`",
        ),
        (Columns(), {"prompt": [], "completion": []}, "CAUSAL_LM", "messages", "columns `prompt`, `completion`"),
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
    form, reason = detect(columns, list(row), row, objective_of(task).examples)
    assert (form.name, reason) == (name, why)
    assert isinstance(form, FORMATS[name])


@pytest.mark.parametrize(
    ("columns", "row", "task", "told"),
    [
        (
            Columns(),
            {"body": "x", "id": 1},
            "CAUSAL_LM",
            "no format matches the columns `body`, `id` (write `prompt_template` and "
            "`completion_template` with `{column}` in them, or map the columns, such as "
            '`columns = {question = "...", answer = "..."}`)',
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
        (Columns(), {"text": "a"}, "SEQ_CLS", "no column `label` among `text` (set `label_column`)"),
        (
            Columns(),
            {"body": "a", "label": 0},
            "SEQ_CLS",
            "no text column among `body`, `label` (set `text_column`)",
        ),
    ],
)
def test_columns_that_fit_no_format_are_told(columns, row, task, told):
    assert fault(detect, columns, list(row), row, objective_of(task).examples) == told


# Columns within columns

SELF_INSTRUCT = {"instruction": "Add.", "instances": [{"input": "1, 2", "output": "3"}, {"input": "", "output": "no"}]}


def test_a_column_may_be_a_path_into_another():
    columns = Columns(columns={"input": "instances.0.input", "output": "instances.0.output"})
    form, why = detect(columns, list(SELF_INSTRUCT), SELF_INSTRUCT)
    assert (form.name, why) == ("alpaca", "columns `instruction`, `instances.0.input`, `instances.0.output`")
    asked = Message("user", "Add.\n\n1, 2")
    assert form.example(SELF_INSTRUCT) == Conversation((asked, Message("assistant", "3")))
    assert form.prompt(form.question("hi")) == Conversation((Message("user", "hi"),))
    row = {"instruction": "Add.", "instances": []}
    assert fault(form.example, row) == "no column `instances.0.output` (columns: instruction, instances)"


def test_paths_are_read_in_templates_and_of_labels():
    row = {"q": {"text": "hi"}, "answers": {"text": ["yo"]}}
    templates = Columns(prompt_template="{q.text}", completion_template=" {answers.text.0}")
    assert formed(templates, row).example(row) == PromptCompletion("hi", " yo")
    row = {"meta": {"text": "hi", "class": 3}}
    columns = Columns(text_column="meta.text", label_column="meta.class")
    form = formed(columns, row, "SEQ_CLS")
    assert form.example(row) == Labelled("hi", None, "3")
    assert fault(form.label, {"meta": {"text": "a"}}) == "no column `meta.class` (columns: meta)"


def test_a_column_with_dots_in_its_name_is_itself():
    row = {"a.b": "hi", "a": {"b": "no"}, "answer": "yo"}
    assert formed(Columns(columns={"question": "a.b"}), row).example(row) == Conversation(TURNS)


def test_a_path_into_no_column_is_told():
    told = "dataset.columns.output: `tasks.0` is not a column of the data (columns: instruction, instances)"
    columns = Columns(columns={"output": "tasks.0"})
    assert fault(detect, columns, list(SELF_INSTRUCT), SELF_INSTRUCT) == told


# Trees of messages


def tree(*replies, **more):
    return {"message_tree_id": "t", "tree_state": "ready", "prompt": message("prompter", "hi", *replies, **more)}


def message(role, text, *replies, **more):
    return {"message_id": text, "role": role, "text": text, "lang": "en", "replies": list(replies), **more}


TREE = tree(
    message("assistant", "unranked"),
    message("assistant", "second", rank=1),
    message("assistant", "yo", message("prompter", "so?"), message("prompter", "and?", rank=0), rank=0.0),
    message("assistant", "deleted", rank=-1, deleted=True),
    message("assistant", "failed", rank=-1, review_result=False),
)


def test_a_tree_is_the_conversation_of_the_replies_that_are_ranked_best():
    form, why = detect(Columns(), list(TREE), TREE)
    assert (form.name, why) == ("oasst", "column `prompt`")
    assert form.example(TREE) == Conversation(TURNS)
    assert form.prompt(TREE) == Conversation((*TURNS, Message("user", "and?")))
    assert form.answer(TREE) == "yo"
    assert form.prompt(form.question("hi")) == Conversation(TURNS[:1])
    assert form.example(tree(message("assistant", "yo"), message("assistant", "later"))) == Conversation(TURNS)


SHAPE = '(write `{"role": "prompter", "text": ..., "replies": [{"role": "assistant", ...}]}`)'


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (tree(), "`prompt` has no answer (remove the row)"),
        (tree(message("assistant", "x", deleted=True)), "`prompt` has no answer (remove the row)"),
        ({"message_tree_id": "t", "prompt": "hi"}, f"`prompt` is 'hi' instead of a message {SHAPE}"),
        (tree(3), f"`prompt.replies[0]` is 3 instead of a message {SHAPE}"),
        (tree(message("bot", "x")), f"`prompt.replies[0]` is an object instead of a message {SHAPE}"),
        (tree(replies="x"), f"`prompt.replies` is 'x' instead of a list {SHAPE}"),
        (tree(message("assistant", None)), "`prompt.replies[0].text` is null instead of text ()"),
        (
            tree(message("assistant", " ")),
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
    ],
)
def test_a_faulty_tree_is_told(row, told):
    assert fault(formed(Columns(), row).example, row) == told


def test_single_messages_of_trees_are_refused():
    row = {"message_id": "a", "parent_id": None, "role": "prompter", "text": "hi", "lang": "en"}
    assert fault(formed, Columns(), row) == (
        "columns `message_id`, `parent_id`, `role`, `text`: each row is a single message of a tree "
        "(use the file of trees, such as `2023-04-12_oasst_ready.trees.jsonl.gz` of OpenAssistant/oasst1)"
    )


# Faulty rows

TURN = 'write `{"role": ..., "content": ...}`'


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (CHAT[:1], "the last turn has the role `user` (a training row must end with an assistant turn)"),
        ([], "`messages` has no turns (add a question and an answer, or remove the row)"),
        ("hi", "`messages` is 'hi' instead of a list of turns ()"),
        (None, "`messages` is null instead of a list of turns ()"),
        (["hi"], f"`messages[0]` is 'hi' instead of a turn ({TURN})"),
        ([CHAT[0], {"role": "bot", "content": "x"}], f"`messages[1].role` is 'bot' (one of: {', '.join(ROLES)})"),
        ([{"content": "x"}], f"`messages[0].role` is null (one of: {', '.join(ROLES)})"),
        (
            [{**CHAT[0], "thinking": "x"}],
            "`messages[0]` has `thinking`, which would be lost (known for role `user`: `role`, `content`, `name`)",
        ),
        ([{"role": "user", "content": None}], "`messages[0].content` is null instead of text ()"),
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
    assert fault(formed(Columns(), row).prompt, row) == "no turn to answer (add a user turn)"


def test_a_long_value_is_shown_shortened():
    row = {"messages": "x" * 100}
    assert fault(formed(Columns(), row).example, row) == f"`messages` is '{'x' * 36}... instead of a list of turns ()"


# Turns in the form of OpenAI's API

SEEK = {"name": "seek", "arguments": {"what": "tea"}}
CALL = {"type": "function", "function": SEEK}
AS_CALL = {"id": "c1", "type": "function", "function": {"name": "seek", "arguments": '{"what": "tea"}'}}
TOOL = {"name": "seek", "description": "Look for a thing.", "parameters": {"type": "object", "properties": {}}}
WRAPPED = {"type": "function", "function": TOOL}


def read(turn, *others):
    """The turn before others as a format reads it."""
    row = {"messages": [turn, *(others or CHAT)]}
    return formed(Columns(), row).example(row).messages[0]


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({"role": "developer", "content": "Be kind."}, Message("system", "Be kind.")),
        ({"role": "function", "name": "seek", "content": "3"}, Message("tool", "3", {"name": "seek"})),
        ({"role": "tool", "tool_call_id": "c1", "content": "3"}, Message("tool", "3", {"tool_call_id": "c1"})),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message("user", "ab"),
        ),
        ({"role": "user", "content": "a", "name": "ann", "tool_calls": None}, Message("user", "a", {"name": "ann"})),
        ({"role": "assistant", "content": "a", "thinking": "hm"}, Message("assistant", "a", {"thinking": "hm"})),
        (
            {"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": []},
            Message("assistant", "a", {"reasoning_content": "hm"}),
        ),
        ({"role": "assistant", "content": "a", "train": False}, Message("assistant", "a", train=False)),
        ({"role": "assistant", "content": "a", "train": True}, Message("assistant", "a", train=True)),
        ({"role": "assistant", "content": "a", "weight": 0}, Message("assistant", "a", train=False)),
        ({"role": "assistant", "content": "a", "weight": 1.0}, Message("assistant", "a", train=True)),
        ({"role": "assistant", "content": "a", "train": None}, Message("assistant", "a")),
        (
            {"role": "assistant", "content": None, "tool_calls": [AS_CALL]},
            Message("assistant", "", {"tool_calls": [{"id": "c1", **CALL}]}),
        ),
        ({"role": "assistant", "tool_calls": [CALL]}, Message("assistant", "", {"tool_calls": [CALL]})),
        ({"role": "assistant", "content": "", "tool_calls": [SEEK]}, Message("assistant", "", {"tool_calls": [CALL]})),
        (
            {"role": "assistant", "content": "ok", "tool_calls": [CALL]},
            Message("assistant", "ok", {"tool_calls": [CALL]}),
        ),
    ],
)
def test_a_turn_is_read_with_all_that_it_says(turn, message):
    assert read(turn) == message


def test_a_turn_is_given_to_the_template_with_all_that_it_says():
    message = read({"role": "assistant", "content": "ok", "thinking": "hm", "tool_calls": [AS_CALL], "train": True})
    calls = [{"id": "c1", **CALL}]
    assert message.as_turn() == {"role": "assistant", "content": "ok", "thinking": "hm", "tool_calls": calls}
    assert Message("user", "hi").as_turn() == CHAT[0]


def test_what_is_read_can_be_a_key_of_a_table():
    row = {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [CALL]}], "tools": [TOOL]}
    read_twice = {formed(Columns(), row).example(row) for _ in range(2)}
    assert len(read_twice) == 1


CALL_FORM = '(write `{"name": ..., "arguments": {...}}`)'
ANSWER_KEYS = (
    "(known for role `assistant`: `role`, `content`, `name`, `tool_calls`, `reasoning_content`, `thinking`, "
    "`train`, `weight`)"
)


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        ({"content": [{"type": "image_url", "image_url": {}}]}, ".content[0]` is of type `image_url`"),
        (
            {"content": [{"type": "text", "text": "x"}, {"type": "input_audio"}]},
            ".content[1]` is of type `input_audio`",
        ),
        ({"content": [{"text": "x"}]}, '.content[0]` is not a text part (write `{"type": "text", "text": ...}`)'),
        ({"content": ["x"]}, '.content[0]` is not a text part (write `{"type": "text", "text": ...}`)'),
        ({"content": [{"type": "text"}]}, '.content[0]` is not a text part (write `{"type": "text", "text": ...}`)'),
        ({"content": None}, ".content` is null instead of text ()"),
        ({"content": None, "tool_calls": []}, ".content` is null instead of text ()"),
        ({"refusal": "no"}, f"` has `refusal`, which would be lost {ANSWER_KEYS}"),
        ({"tool_call_id": "c1"}, f"` has `tool_call_id`, which would be lost {ANSWER_KEYS}"),
        ({"thinking": ["hm"]}, ".thinking` is a list instead of text ()"),
        ({"train": 1}, ".train` is 1 (true or false)"),
        ({"weight": 0.5}, ".weight` is 0.5 (0 or 1)"),
        ({"weight": True}, ".weight` is true or false (0 or 1)"),
        ({"weight": "1"}, ".weight` is '1' (0 or 1)"),
        ({"train": True, "weight": 1}, "` has both `train` and `weight` (keep one of them)"),
        ({"tool_calls": {}}, f".tool_calls` is an object instead of a list of tool calls {CALL_FORM}"),
        ({"tool_calls": ["seek"]}, f".tool_calls[0]` names no function {CALL_FORM}"),
        ({"tool_calls": [{"function": "seek"}]}, f".tool_calls[0]` names no function {CALL_FORM}"),
        ({"tool_calls": [CALL, {"function": {}}]}, f".tool_calls[1]` names no function {CALL_FORM}"),
        (
            {"tool_calls": [{"name": "seek"}]},
            f".tool_calls[0].arguments` is null instead of an object {CALL_FORM}",
        ),
        (
            {"tool_calls": [{"name": "seek", "arguments": "[1]"}]},
            f".tool_calls[0].arguments` is a list instead of an object {CALL_FORM}",
        ),
        (
            {"tool_calls": [{"name": "seek", "arguments": "{'a': 1}"}]},
            ".tool_calls[0].arguments` is not JSON: expecting property name enclosed in double quotes at character 2 "
            f"{CALL_FORM}",
        ),
    ],
)
def test_what_a_turn_cannot_say_is_told(turn, told):
    row = {"messages": [CHAT[0], {"role": "assistant", "content": "a", **turn}]}
    assert fault(formed(Columns(), row).example, row).startswith(f"`messages[1]{told}")


@pytest.mark.parametrize("key", ["tool_calls", "thinking", "reasoning_content", "train", "weight"])
@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_only_an_answer_has_what_belongs_to_one(role, key):
    row = {"messages": [{"role": role, "content": "x", key: 1}, CHAT[1]]}
    assert f"`messages[0]` has `{key}`, which would be lost" in fault(formed(Columns(), row).example, row)


def test_turns_of_sharegpt_among_messages_are_told_apart():
    row = {"messages": [{"from": "human", "value": "hi"}]}
    assert fault(formed(Columns(), row).example, row) == (
        "`messages[0]` has the key `from`, as in ShareGPT "
        '(write `format = "sharegpt"` and `columns = {conversations = "messages"}`)'
    )
    columns = Columns(format="sharegpt", columns={"conversations": "messages"})
    assert formed(columns, row).prompt(row) == Conversation((Message("user", "hi"),))


# Tools


@pytest.mark.parametrize(
    ("tools", "read"),
    [
        ([TOOL], (WRAPPED,)),
        ([WRAPPED], (WRAPPED,)),
        (json.dumps([TOOL, WRAPPED]), (WRAPPED, WRAPPED)),
        ([], None),
        ("[]", None),
        (" ", None),
        (None, None),
    ],
)
@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        {"instruction": "hi", "output": "yo"},
    ],
    ids="-".join,
)
def test_tools_are_told_to_learn_and_to_answer(row, tools, read):
    row = {**row, "tools": tools}
    form = formed(Columns(), row)
    assert form.example(row) == Conversation(TURNS, read)
    assert form.prompt(row) == Conversation(TURNS[:1], read)


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ("[", "`tools` is not JSON: expecting value at character 2 (write a list of tools)"),
        (TOOL, "`tools` is an object instead of a list of tools "),
        (["seek"], "`tools[0]` names no function "),
        ([TOOL, {"type": "function"}], "`tools[1]` names no function "),
    ],
)
def test_faulty_tools_are_told(tools, told):
    row = {"messages": CHAT, "tools": tools}
    assert fault(formed(Columns(), row).example, row).startswith(told)


def test_templates_leave_a_column_of_tools_alone():
    row = {"q": "hi", "a": "yo", "how": "kind", "tools": ["saw", "plane"]}
    assert formed(CHAT_QA, row).example(row).tools is None


# ShareGPT


def said(*turns):
    return [{"from": who, "value": what} for who, what in turns]


def test_a_conversation_of_sharegpt_calls_tools():
    row = {
        "conversations": said(
            ("human", "Is there tea?"),
            ("function_call", json.dumps(SEEK)),
            ("observation", '{"found": 3}'),
            ("gpt", "Yes, three boxes."),
        ),
        "system": "Keep the shop.",
        "tools": json.dumps([TOOL]),
    }
    turns = (
        Message("system", "Keep the shop."),
        Message("user", "Is there tea?"),
        Message("assistant", "", {"tool_calls": [CALL]}),
        Message("tool", '{"found": 3}'),
        Message("assistant", "Yes, three boxes."),
    )
    form, why = detect(Columns(), list(row), row)
    assert (form.name, why) == ("sharegpt", "columns `conversations`, `system`, `tools`")
    assert form.example(row) == Conversation(turns, (WRAPPED,))
    assert form.prompt(row) == Conversation(turns[:4], (WRAPPED,))
    assert form.answer(row) == "Yes, three boxes."


def test_a_call_may_be_the_answer_and_several_at_once():
    row = {"conversations": said(("human", "Tea?"), ("function_call", json.dumps([SEEK, SEEK])))}
    form = formed(Columns(), row)
    assert form.example(row).messages[1] == Message("assistant", "", {"tool_calls": [CALL, CALL]})
    assert fault(form.answer, row) == "the answer is a tool call without text to compare with (remove the row)"


@pytest.mark.parametrize("column", ["conversations", "conversation"])
@pytest.mark.parametrize("answerer", ["gpt", "assistant", "bot", "model", "chatgpt"])
@pytest.mark.parametrize("asker", ["human", "user"])
def test_sharegpt_has_many_names_for_the_two(asker, answerer, column):
    for row in ({column: said((asker, "hi"), (answerer, "yo"))}, {column: [*CHAT[:1], {**CHAT[1], "role": answerer}]}):
        assert formed(Columns(), row).example(row) == Conversation(TURNS)


@pytest.mark.parametrize("role", ["observation", "tool"])
def test_sharegpt_has_two_names_for_what_a_tool_says(role):
    row = {"conversations": said(("human", "hi"), (role, "3"), ("gpt", "yo"))}
    assert formed(Columns(), row).example(row).messages[1] == Message("tool", "3")


def test_sharegpt_marks_what_is_learned():
    first = {"from": "gpt", "value": "yo", "weight": 0}
    row = {"conversations": [*said(("human", "hi")), first, *said(("human", "and"), ("gpt", "ok"))]}
    assert [turn.train for turn in formed(Columns(), row).example(row).messages] == [None, False, None, None]


@pytest.mark.parametrize("system", ["", None])
def test_an_empty_system_column_is_no_turn(system):
    row = {"conversations": said(("human", "hi"), ("gpt", "yo")), "system": system}
    assert formed(Columns(), row).example(row) == Conversation(TURNS)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"conversations": said(("narrator", "hi"))},
            "`conversations[0].from` is 'narrator' (one of: human, user, gpt, assistant, bot, model, chatgpt, system, "
            "observation, tool, function_call)",
        ),
        ({"conversations": said(("human", None))}, "`conversations[0].value` is null instead of text ()"),
        ({"conversations": ["hi"]}, f"`conversations[0]` is 'hi' instead of a turn ({TURN})"),
        ({"conversations": None}, "`conversations` is null instead of a list of turns ()"),
        ({"conversation": []}, "`conversation` has no turns (add a question and an answer, or remove the row)"),
        (
            {"conversations": [{"from": "human", "value": "hi", "markdown": "x"}]},
            "`conversations[0]` has `markdown`, which would be lost (known for role `user`: `from`, `value`, `name`)",
        ),
        (
            {"conversations": said(("human", "hi"), ("function_call", "seek"))},
            f"`conversations[1].value` is not JSON: expecting value at character 1 {CALL_FORM}",
        ),
        (
            {"conversations": said(("human", "hi"), ("function_call", None))},
            f"`conversations[1].value` is null instead of text {CALL_FORM}",
        ),
        (
            {"conversations": said(("human", "hi"), ("function_call", "{}"))},
            f"`conversations[1].value[0]` names no function {CALL_FORM}",
        ),
        (
            {"conversations": said(("human", "hi"), ("gpt", ""))},
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
        (
            {"conversations": said(("human", "hi"))},
            "the last turn has the role `user` (a training row must end with an assistant turn)",
        ),
        (
            {"conversations": said(("system", "Be kind."), ("gpt", "yo")), "system": "Be kinder."},
            "both `system` and a system turn are given (keep one of them)",
        ),
    ],
)
def test_faulty_rows_of_sharegpt_are_told(row, told):
    assert fault(formed(Columns(), row).example, row) == told


# Instructions and questions

HALVE = Message("user", "Halve it.\n\n8")


@pytest.mark.parametrize(
    ("row", "why", "turns"),
    [
        (
            {"instruction": "Halve it.", "input": "8", "output": "4"},
            "columns `instruction`, `input`, `output`",
            (HALVE, Message("assistant", "4")),
        ),
        (
            {"instruction": "Halve it.", "input": "8", "output": "4", "text": "Halve it. 8 4"},
            "columns `instruction`, `input`, `output`",
            (HALVE, Message("assistant", "4")),
        ),
        (
            {"instruction": "hi", "input": "", "output": "yo"},
            "columns `instruction`, `input`, `output`",
            TURNS,
        ),
        ({"instruction": "hi", "input": None, "output": "yo"}, "columns `instruction`, `input`, `output`", TURNS),
        ({"instruction": "hi", "output": "yo"}, "columns `instruction`, `output`", TURNS),
        (
            {"instruction": "Halve it.", "input": "8", "response": "4", "output": "4"},
            "columns `instruction`, `input`, `output`",
            (HALVE, Message("assistant", "4")),
        ),
        (
            {"instruction": "Halve it.", "context": "8", "response": "4", "category": "sums"},
            "columns `instruction`, `context`, `response`",
            (HALVE, Message("assistant", "4")),
        ),
        (
            {"instruction": "hi", "output": "yo", "system": "Be kind.", "history": [["a", "b"], ["c", "d"]]},
            "columns `instruction`, `output`, `system`, `history`",
            (
                Message("system", "Be kind."),
                Message("user", "a"),
                Message("assistant", "b"),
                Message("user", "c"),
                Message("assistant", "d"),
                *TURNS,
            ),
        ),
        (
            {"instruction": "hi", "output": "yo", "system": "", "history": None},
            "columns `instruction`, `output`, `system`, `history`",
            TURNS,
        ),
        ({"question": "hi", "answer": "yo"}, "columns `question`, `answer`", TURNS),
        ({"question": "hi", "answer": 4}, "columns `question`, `answer`", (TURNS[0], Message("assistant", "4"))),
        (
            {"type": "sums", "query": "hi", "original_question": "ho", "response": "yo"},
            "columns `query`, `response`",
            TURNS,
        ),
        ({"query": "hi", "answer": "yo", "lang": "c"}, "columns `query`, `answer`", TURNS),
    ],
)
def test_columns_of_a_question_and_its_answer_are_turns(row, why, turns):
    form, reason = detect(Columns(), list(row), row)
    assert reason == why
    assert form.example(row) == Conversation(turns)
    assert form.prompt(row) == Conversation(turns[:-1])
    assert form.answer(row) == turns[-1].content
    asked = form.question("hi")
    assert set(asked) <= set(row)
    assert form.prompt(asked) == Conversation(TURNS[:1])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"instruction": "hi", "output": " "},
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
        ({"instruction": None, "output": "yo"}, "`instruction` is null instead of text ()"),
        ({"instruction": "hi", "input": ["8"], "output": "yo"}, "`input` is a list instead of text ()"),
        ({"instruction": "hi", "output": "yo", "system": {}}, "`system` is an object instead of text ()"),
        (
            {"instruction": "hi", "output": "yo", "history": "a"},
            "`history` is 'a' instead of a list of rounds (`[[question, answer], ...]`)",
        ),
        (
            {"instruction": "hi", "output": "yo", "history": [["a", "b"], ["a"]]},
            "`history[1]` is not a pair of texts (write `[question, answer]`)",
        ),
        (
            {"instruction": "hi", "output": "yo", "history": [["a", ""]]},
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
        ({"query": "hi", "response": ["yo"]}, "`response` is a list instead of text ()"),
        (
            {"question": "hi", "answer": ""},
            "the answer is empty (it would teach the model to say nothing; remove the row)",
        ),
    ],
)
def test_a_faulty_question_or_answer_is_told(row, told):
    assert fault(formed(Columns(), row).example, row) == told


def test_the_names_of_the_first_rows_hold_for_all():
    form = formed(Columns(), {"query": "hi", "response": "yo"})
    assert fault(form.example, {"question": "hi", "answer": "yo"}) == "no column `query` (columns: question, answer)"


# Texts that are learned whole


def test_a_text_is_learned_whole_and_goes_on_where_it_is_answered():
    row = {"text": "Once upon a time", "url": "a"}
    form, why = detect(Columns(), list(row), row)
    assert (form.name, why) == ("text", "column `text`")
    assert form.example(row) == RawText("Once upon a time")
    assert form.prompt(row) == PromptCompletion("Once upon a time")
    assert form.prompt(form.question("Once")) == PromptCompletion("Once")
    told = "raw text has no answer (remove `evaluation.exact_match`)"
    assert fault(form.answer, row) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (" \n", "the text is empty (there is nothing to learn from it; remove the row)"),
        (None, "`text` is null instead of text ()"),
        (["a"], "`text` is a list instead of text ()"),
    ],
)
def test_a_faulty_text_is_told(text, told):
    row = {"text": text}
    assert fault(formed(Columns(), row).example, row) == told


# Columns by other names

NAMED = {
    "prompt and completion": (
        ({"prompt": "q", "completion": "a"}, {"q": "hi", "a": "yo", "prompt": "no"}),
        ("prompt-completion", "columns `q`, `a`", PromptCompletion("hi", "yo"), {"q": "2+2"}),
    ),
    "turns": (
        ({"messages": "dialogue", "tools": "devices"}, {"dialogue": CHAT, "devices": [TOOL]}),
        (
            "messages",
            "columns `dialogue`, `devices`",
            Conversation(TURNS, (WRAPPED,)),
            {"dialogue": [{"role": "user", "content": "2+2"}]},
        ),
    ),
    "lists as turns": (
        ({"prompt": "q"}, {"q": CHAT[:1], "completion": CHAT[1:]}),
        ("messages", "columns `q`, `completion`", Conversation(TURNS), {"q": "2+2"}),
    ),
    "sharegpt": (
        ({"conversation": "items"}, {"items": said(("human", "hi"), ("gpt", "yo"))}),
        ("sharegpt", "column `items`", Conversation(TURNS), {"items": [{"from": "human", "value": "2+2"}]}),
    ),
    "another answer": (
        ({"output": "better"}, {"instruction": "hi", "response": "no", "better": "yo"}),
        ("alpaca", "columns `instruction`, `better`", Conversation(TURNS), {"instruction": "2+2"}),
    ),
    "an answer by its other name": (
        ({"response": "better"}, {"instruction": "hi", "output": "no", "better": "yo"}),
        ("alpaca", "columns `instruction`, `better`", Conversation(TURNS), {"instruction": "2+2"}),
    ),
    "names that change places": (
        ({"instruction": "input", "output": "instruction"}, {"input": "hi", "instruction": "yo"}),
        ("alpaca", "columns `input`, `instruction`", Conversation(TURNS), {"input": "2+2"}),
    ),
    "one of two questions": (
        ({"answer": "short"}, {"question": "hi", "short": "yo", "response": "no"}),
        ("question-answer", "columns `question`, `short`", Conversation(TURNS), {"question": "2+2"}),
    ),
    "chosen answers": (
        ({"completion": "chosen"}, {"prompt": "hi", "chosen": "yo", "rejected": "no"}),
        ("prompt-completion", "columns `prompt`, `chosen`", PromptCompletion("hi", "yo"), {"prompt": "2+2"}),
    ),
    "text": (
        ({"text": "body"}, {"body": "hi"}),
        ("text", "column `body`", RawText("hi"), {"body": "2+2"}),
    ),
}


@pytest.mark.parametrize(("given", "expected"), NAMED.values(), ids=NAMED)
def test_columns_may_have_other_names(given, expected):
    columns, row = given
    name, reason, example, question = expected
    form, why = detect(Columns(columns=columns), list(row), row)
    assert (form.name, why, form.example(row), form.question("2+2")) == (name, reason, example, question)
    again = FORMATS[form.name](Columns(**asdict(form.columns)))
    assert again.example(row) == example
    alone = {key: value for key, value in row.items() if key != "devices"}
    assert again.prompt(form.question("2+2")) == again.prompt({**alone, **question})


def test_a_format_by_name_finds_the_other_names_too():
    row = {"question": "hi", "response": "yo"}
    form, why = detect(Columns(format="question-answer"), list(row), row)
    assert why == '`format = "question-answer"`'
    assert form.example(row) == Conversation(TURNS)


def test_texts_as_turns_may_have_other_names():
    columns = Columns(format="messages", columns={"prompt": "q", "completion": "a"})
    row = {"q": "hi", "a": "yo"}
    form = formed(columns, row)
    assert form.example(row) == Conversation(TURNS)
    assert form.question("2+2") == {"q": "2+2"}


def test_a_fault_names_the_column_of_the_data():
    columns = Columns(columns={"prompt": "q", "completion": "a"})
    form = formed(columns, {"q": "hi", "a": "yo"})
    assert fault(form.example, {"q": "hi", "a": None}) == "`a` is null instead of text ()"
    assert fault(form.example, {"q": "hi", "completion": "yo"}) == "no column `a` (columns: q, completion)"


@pytest.mark.parametrize(
    ("columns", "row", "told"),
    [
        (
            Columns(columns={"prompt": "qestion"}),
            {"question": "hi", "answer": "yo"},
            "dataset.columns.prompt: `qestion` is not a column of the data "
            "(did you mean `question`? columns: question, answer)",
        ),
        (
            Columns(columns={"context": "id"}),
            {"question": "hi", "answer": "yo", "id": 1},
            "dataset.columns.context: the format `question-answer` has no such column (known: `question`, `answer`, "
            "`system`, `history`, `tools`, `query`, `response`, `human`, `assistant`, `input`, `output`)",
        ),
        (
            Columns(format="alpaca", columns={"promt": "id"}),
            {"instruction": "hi", "output": "yo", "id": 1},
            "dataset.columns.promt: the format `alpaca` has no such column (known: `instruction`, `input`, `output`, "
            "`system`, `history`, `tools`, `context`, `response`)",
        ),
        (
            Columns(columns={"output": "a", "response": "b"}),
            {"instruction": "hi", "a": "yo", "b": "yo"},
            "dataset.columns.response: `response` and `output` are two names for the same column (keep one of them)",
        ),
        (
            Columns(),
            {"instruction": "hi", "output": "yo", "response": "ya"},
            "the columns `output` and `response` have the same meaning, but different values "
            '(choose one, such as `columns = {output = "response"}`)',
        ),
    ],
)
def test_columns_by_names_that_do_not_fit_are_told(columns, row, told):
    assert fault(detect, columns, list(row), row) == told


# Rows that could be more than one thing


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"messages": CHAT, "instruction": "hi", "output": "yo"},
            "the columns match several formats: messages (`messages`) and alpaca (`instruction`, `output`) "
            '(write `format = "messages"` or `format = "alpaca"`)',
        ),
        (
            {"messages": CHAT, "prompt": "hi", "completion": "yo"},
            "the columns match several formats: messages (`messages`) and prompt-completion (`prompt`, `completion`) "
            '(write `format = "messages"` or `format = "prompt-completion"`)',
        ),
        (
            {"conversation": [], "query": "hi", "response": "yo"},
            "the columns match several formats: sharegpt (`conversation`) and question-answer (`query`, `response`) "
            '(write `format = "sharegpt"` or `format = "question-answer"`)',
        ),
        (
            {"question": "hi", "answer": "yo", "instruction": "hi", "response": "yo"},
            "the columns match several formats: alpaca (`instruction`, `response`) and "
            "question-answer (`question`, `answer`) "
            '(write `format = "alpaca"` or `format = "question-answer"`)',
        ),
    ],
)
def test_rows_of_two_formats_are_told(row, told):
    assert fault(detect, Columns(), list(row), row) == told


def test_a_format_by_name_settles_it():
    row = {"messages": CHAT, "instruction": "Halve it.", "input": "8", "output": "4", "label": True}
    assert formed(Columns(format="messages"), row).example(row) == Conversation(TURNS)
    assert formed(Columns(format="alpaca"), row).prompt(row) == Conversation((HALVE,))


@pytest.mark.parametrize("sign", ["messages", "conversations", "instruction", "question", "prompt"])
def test_a_text_column_counts_where_nothing_else_does(sign):
    rows = {
        "messages": {"messages": CHAT},
        "conversations": {"conversations": said(("human", "hi"), ("gpt", "yo"))},
        "instruction": {"instruction": "hi", "output": "yo"},
        "question": {"question": "hi", "answer": "yo"},
        "prompt": {"prompt": "hi", "completion": "yo"},
    }
    row = {"text": "hi yo", **rows[sign]}
    assert formed(Columns(), row).name != "text"
    assert formed(Columns(format="text"), row).example(row) == RawText("hi yo")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "hi", "chosen": "yo", "rejected": "no"}, "`prompt`, `chosen`, `rejected`"),
        ({"chosen": "yo", "rejected": "no"}, "`chosen`, `rejected`"),
        (
            {"conversations": said(("human", "hi")), "chosen": {}, "rejected": {}},
            "`conversations`, `chosen`, `rejected`",
        ),
        ({"messages": CHAT, "label": True}, "`messages`, `label`"),
        ({"prompt": "hi", "completion": "yo", "label": False}, "`prompt`, `completion`, `label`"),
        ({"prompt": "hi", "completion": "yo", "label": "True"}, "`prompt`, `completion`, `label`"),
    ],
)
def test_rows_of_preferences_are_refused(row, named):
    told = fault(detect, Columns(), list(row), row)
    assert told.startswith(f"columns {named}: `[sft]` would learn the bad answers of preference rows, too (")


@pytest.mark.parametrize("label", [1, 0, "good", None])
def test_a_label_that_is_no_verdict_is_left_aside(label):
    row = {"prompt": "hi", "completion": "yo", "label": label}
    assert formed(Columns(), row).example(row) == PromptCompletion("hi", "yo")


@pytest.mark.parametrize(
    ("name", "sign"), [(name, sign) for name, form in FORMATS.items() for sign in (*form.signs, *form.late_signs)]
)
def test_the_signs_of_a_format_tell_it(name, sign):
    assert detect(Columns(), sign, dict.fromkeys(sign, "x"))[0].name == name


def test_every_format_has_a_name_in_the_recipe():
    names = get_args(Dataset.model_fields["format"].annotation)
    assert set(names) == {"auto", *FORMATS}


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        (
            ("user", "assistant", "assistant"),
            "turns 1 and 2 are both from the assistant (join them)",
        ),
        (("user", "system", "assistant"), "turn 1 is a system turn (a system turn must come first)"),
    ],
)
def test_turns_out_of_order_are_told(roles, told):
    row = {"messages": [{"role": role, "content": "a"} for role in roles]}
    assert fault(formed(Columns(), row).example, row) == told


def test_a_conversation_may_begin_with_an_answer_and_go_through_tools():
    call = {"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}
    roles = [{"role": role, "content": "a"} for role in ("assistant", "user", "tool", "assistant")]
    row = {"messages": [*roles[:2], call, *roles[2:]]}
    assert len(formed(Columns(), row).example(row).messages) == 5


# Forms of other trainers


ROUNDS = [["a", "b"], ["c", "d"]]
EARLIER = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
SYSTEM = Message("system", "be kind")
PAIRED = {
    "ms-swift's columns": (
        {"system": "be kind", "query": "hi", "response": "yo", "history": ROUNDS},
        "question-answer",
        (SYSTEM, *EARLIER, *TURNS),
    ),
    "no history": ({"query": "hi", "response": "yo", "history": [], "system": ""}, "question-answer", TURNS),
    "null history": ({"query": "hi", "response": "yo", "history": None, "system": None}, "question-answer", TURNS),
    "two columns": ({"human": "hi", "assistant": "yo"}, "question-answer", TURNS),
    "input and output": ({"input": "hi", "output": "yo"}, "question-answer", TURNS),
    "input and output beside the text made of them": (
        {"input": "hi", "output": "yo", "text": "hi yo"},
        "question-answer",
        TURNS,
    ),
    "an input beside an instruction": (
        {"instruction": "hi", "input": "", "output": "yo"},
        "alpaca",
        TURNS,
    ),
    "Dolly with a context": (
        {"instruction": "hi", "context": "there", "response": "yo"},
        "alpaca",
        (Message("user", "hi\n\nthere"), TURNS[1]),
    ),
    "Dolly without one": ({"instruction": "hi", "context": "", "response": "yo"}, "alpaca", TURNS),
    "pairs": (
        {"system": "be kind", "conversation": [{"human": "a", "assistant": "b"}, {"human": "hi", "assistant": "yo"}]},
        "sharegpt",
        (SYSTEM, *EARLIER[:2], *TURNS),
    ),
    "pairs of users": ({"conversations": [{"user": "hi", "assistant": "yo"}]}, "sharegpt", TURNS),
    "pairs as messages": ({"messages": [{"human": "hi", "gpt": "yo"}]}, "messages", TURNS),
}


@pytest.mark.parametrize(("row", "name", "turns"), PAIRED.values(), ids=PAIRED)
def test_rounds_of_questions_and_answers_are_turns(row, name, turns):
    form = formed(Columns(), row)
    assert form.name == name
    assert form.example(row) == Conversation(turns)
    assert form.prompt(row) == Conversation(turns[:-1])
    assert form.answer(row) == "yo"


def parts(*said, **more):
    return {"role": "assistant", "content": [{"type": kind, "value": value} for kind, value in said], **more}


LLAMA_FACTORY = {
    "text": (parts(("text", "y"), ("text", "o")), Message("assistant", "yo")),
    "OpenAI's text": ({"role": "assistant", "content": [{"type": "text", "text": "yo"}]}, Message("assistant", "yo")),
    "reasoning": (parts(("reasoning", "hm"), ("text", "yo")), Message("assistant", "yo", {"reasoning_content": "hm"})),
    "a call": (
        parts(("tool_call", '{"name": "f", "arguments": {"x": 1}}')),
        Message(
            "assistant",
            "",
            {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]},
        ),
    ),
    "learned": (parts(("text", "yo"), loss_weight=1.0), Message("assistant", "yo", train=True)),
    "not learned": (parts(("text", "yo"), loss_weight=0.0), Message("assistant", "yo", train=False)),
}


@pytest.mark.parametrize(("turn", "message"), LLAMA_FACTORY.values(), ids=LLAMA_FACTORY)
def test_a_turn_in_parts_is_one_message(turn, message):
    asked = {"role": "user", "content": [{"type": "text", "value": "hi"}], "loss_weight": 0.0}
    row = {"messages": [asked, turn]}
    assert formed(Columns(), row).example(row) == Conversation((TURNS[0], message))


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        (
            parts(("text", "a"), loss_weight=0.5),
            "`messages[1].loss_weight` is 0.5 (write 0 or 1; an answer is in the loss",
        ),
        (parts(("text", "a"), loss_weight=True), "`messages[1].loss_weight` is true or false"),
        (parts(("text", "a"), loss_weight=1, train=True), "`messages[1]` has both `train` and `loss_weight`"),
        (parts(("image_url", "a")), "`messages[1].content[0]` is of type `image_url` (only text is supported)"),
        (parts(("text", None)), "`messages[1].content[0]` is not a text part"),
        (parts(("tool_call", "{")), "`messages[1].content[0]` is not JSON"),
        (
            {"role": "user", "content": "a", "loss_weight": 1},
            "`messages[1].loss_weight` is 1 (write 0; a user turn is never",
        ),
        ({"human": "a", "assistant": "b", "topic": "c"}, "`messages[1]` has `topic`, which would be lost (a round has"),
        ({"human": "a", "assistant": 7}, "`messages[1].assistant` is 7 instead of text"),
    ],
)
def test_what_such_a_turn_cannot_say_is_told(turn, told):
    row = {"messages": [{"role": "user", "content": "hi"}, turn]}
    assert fault(formed(Columns(), row).example, row).startswith(told)


@pytest.mark.parametrize(
    "pair", [("chosen", "rejected"), ("chosen_messages", "rejected_messages"), ("response_j", "response_k")]
)
def test_rows_of_preferences_are_refused_by_any_names(pair):
    row = {"question": "hi", pair[0]: "yo", pair[1]: "no"}
    assert fault(formed, Columns(), row).startswith(
        f"columns `{pair[0]}`, `{pair[1]}`: `[sft]` would learn the bad answers of preference rows, too"
    )


def test_a_column_that_is_ignored_is_seen_by_no_format():
    row = {"system": "no", "messages": CHAT, "question": "hi", "answer": "yo"}
    form, why = detect(Columns(ignore_columns=["system", "messages"]), list(row), row)
    assert (form.example(row), why) == (Conversation(TURNS), "columns `question`, `answer`")
    kept = FORMATS[form.name](Columns(**json.loads(json.dumps(asdict(form.columns)))))
    assert kept.example(row) == form.example(row)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 200 + "]" * 200, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 10_000 + "]", "too many digits"),
        ("[NaN]", "NaN is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[1", "not JSON"),
    ],
)
def test_json_in_a_cell_has_the_limits_of_rows(text, what):
    with pytest.raises(RowFaultError, match=what):
        parsed(text, "tools", "write a list")
