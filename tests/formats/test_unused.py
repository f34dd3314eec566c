"""Every column of a row is read, known as metadata, or reported; one that means something to a format is refused."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest

from lora_ns.formats import FORMATS, Columns, Unused, detect, ends_answered, find_unasked, find_unused, names_of
from lora_ns.formats.detection import PREFERENCES
from lora_ns.formats.unused import METADATA
from lora_ns.objectives import OBJECTIVES, objective_of

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
QA = {"question": "hi", "answer": "yo"}
ROWS: Mapping[str, tuple[str, dict]] = {
    "messages": ("CAUSAL_LM", {"messages": CHAT}),
    "sharegpt": ("CAUSAL_LM", {"conversations": CHAT}),
    "alpaca": ("CAUSAL_LM", {"instruction": "hi", "output": "yo"}),
    "question-answer": ("CAUSAL_LM", QA),
    "oasst": ("CAUSAL_LM", {"message_tree_id": "7", "prompt": {"role": "prompter", "text": "hi", "replies": []}}),
    "prompt-completion": ("CAUSAL_LM", {"prompt": "hi", "completion": "yo"}),
    "text": ("CAUSAL_LM", {"text": "hi"}),
    "classification": ("SEQ_CLS", {"sentence": "hi", "label": "x"}),
    "token-classification": ("TOKEN_CLS", {"tokens": ["a"], "tags": ["O"]}),
    "preference": ("dpo", {"prompt": "hi", "chosen": "yo", "rejected": "no"}),
    "labelled-completion": ("kto", {"prompt": "hi", "completion": "yo", "label": True}),
    "prompt": ("grpo", {"prompt": "hi", "answer": "yo"}),
}
"""A row of each format, and its task or its objective."""
WRITTEN = [name for name, (task, _) in ROWS.items() if task == "CAUSAL_LM"]
MEANT = sorted(
    {name for form in WRITTEN if form != "text" for name in (*FORMATS[form].reads, *FORMATS[form].aliases)}
    | {name for form in FORMATS.values() for sign in form.signs for name in sign}
    | {name for pair in PREFERENCES for name in pair}
    | {"label"}
)
"""What a format gives a meaning to."""


def examples_of(task):
    return (OBJECTIVES.get(task) or objective_of(task)).examples


def unused(rows, columns=Columns(), task="CAUSAL_LM"):  # noqa: B008 -- it is frozen
    rows = rows if isinstance(rows, list) else [rows]
    form, _ = detect(columns, names_of(rows), rows[0], examples_of(task))
    return find_unused(form, columns, rows)


def test_every_format_has_a_row_to_try():
    assert list(ROWS) == list(FORMATS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_what_its_format_says_that_it_makes(name):
    task, row = deepcopy(ROWS[name])
    form, _ = detect(Columns(), names_of([row]), row, examples_of(task))
    assert form.name == name
    if name == "oasst":  # a tree without a reply has no answer
        row["prompt"]["replies"] = [{"role": "assistant", "text": "yo"}]
    assert type(form.example(row)) in form.makes


@pytest.mark.parametrize("name", ROWS)
def test_a_column_that_nothing_reads_is_reported_in_every_format(name):
    task, row = ROWS[name]
    assert unused(row, task=task) == Unused(())
    more = {"body": "x", **row, "number": 7}
    unread = () if name == "prompt" else ("body", "number")  # the rewards of a prompt may read any column
    assert unused(more, task=task) == Unused(unread)
    assert unused(more, Columns(ignore_columns=["number", "body"]), task) == Unused(())
    assert unused({**row, **dict.fromkeys(METADATA - {"message_tree_id"}, "x")}, task=task) == Unused(())


@pytest.mark.parametrize("column", MEANT)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_column_that_means_something_is_read_or_refused(name, column):
    _, row = ROWS[name]
    columns = Columns(format=name) if name in {"messages", "oasst", "text"} else Columns()
    if column in row:
        return
    value = [["what", "so"]] if column == "history" else "something else"
    rows = [row, {**row, column: value}]
    form, _ = detect(columns, names_of([row]), row)
    found = find_unused(form, Columns(), rows)
    if column in form.used(names_of(rows)) or column in METADATA:
        assert found == Unused(())
    else:
        assert found == Unused((column,), (column,))


@pytest.mark.parametrize("empty", [None, "", " ", [], {}])
def test_a_column_that_is_empty_in_every_row_is_not_missed(empty):
    assert unused([{**QA, "context": empty, "body": empty}] * 2) == Unused(())
    assert unused([{**QA, "body": empty}, {**QA, "body": "x"}]) == Unused(("body",))


def test_the_columns_of_all_rows_count():
    rows = [QA] * 300 + [{**QA, "context": "long ago"}]
    assert unused(rows) == Unused(("context",), ("context",))


@pytest.mark.parametrize(
    ("row", "column", "other"),
    [
        ({"messages": CHAT, "prompt": "hi"}, "prompt", "hello"),
        ({"instruction": "hi", "output": "yo", "response": "yo"}, "response", "ya"),
        ({**QA, "history": [["hi", "yo"]], "query": "hi"}, "query", "hello"),
    ],
)
def test_a_column_that_says_what_others_say_is_not_missed(row, column, other):
    assert unused([row, row]) == Unused(())
    assert unused([row, {**row, column: other}]) == Unused((column,), (column,))
    assert unused([*[row] * 30, {**row, column: other}]) == Unused((column,)), "a few rows spell it differently"


@pytest.mark.parametrize("column", ["code", "answer", "output", "label", "summary", "solution"])
def test_beside_a_text_what_may_be_its_answer_is_refused(column):
    assert unused({"task_id": 1, "text": "Add.", column: "x"}) == Unused(("task_id", column), (column,))
    named = Columns(columns={"prompt": "text", "completion": column})
    assert unused({"task_id": 1, "text": "Add.", column: "x"}, named) == Unused(("task_id",))


def test_a_short_word_that_is_in_others_by_chance_is_missed():
    assert unused({"text": "positive, or is it", "label": "pos"}).meant == ("label",)
    assert unused({"text": "Was it good? It was a masterpiece", "answer": "It was a masterpiece"}) == Unused(())


def test_of_two_columns_for_one_name_the_recipe_may_choose():
    row = {**QA, "output": "ya"}
    assert unused(row, Columns(columns={"answer": "answer"})) == Unused(("output",))
    assert unused(row, Columns(columns={"answer": "output"})) == Unused(("answer",), ("answer",))


def test_the_text_that_was_made_of_the_others_is_reported_alone():
    assert unused({"instruction": "hi", "input": "", "output": "yo", "text": "hi yo"}) == Unused(("text",))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (Columns(prompt_template="{question}", completion_template="{answer}"), Unused(("notes", "messages"))),
        (
            Columns(prompt_template="{question} {notes.a}", completion_template="{answer}"),
            Unused(("messages",)),
        ),
        (
            Columns(
                format="messages",
                prompt_template="{question}",
                completion_template="{answer}",
                system_template="{notes.a}",
                ignore_columns=["messages"],
            ),
            Unused(()),
        ),
        (Columns(format="question-answer"), Unused(("notes", "messages"))),
    ],
)
def test_what_a_recipe_decides_against_is_reported_and_not_refused(columns, found):
    assert unused({**QA, "notes": {"a": "x"}, "messages": "m"}, columns) == found


@pytest.mark.parametrize(
    "columns",
    [
        Columns(format="prompt-completion"),
        Columns(format="text", columns={"text": "prompt"}),
        Columns(prompt_template="{prompt}", completion_template="{completion}"),
    ],
)
@pytest.mark.parametrize("column", ["system", "history", "tools", "input", "context"])
def test_what_goes_with_any_question_is_refused_though_the_recipe_says_how_rows_are_read(columns, column):
    found = unused({"prompt": "hi", "completion": "yo", column: "something"}, columns)
    assert column in found.meant


def test_a_second_text_to_classify_is_refused_unless_the_text_is_named():
    row = {"sentence1": "a", "sentence2": "b", "review": "c", "title": "d", "label": "x"}
    assert unused(row, task="SEQ_CLS") == Unused(("review", "title"), ("review",))
    named = Columns(text_column="sentence1", text_pair_column="sentence2")
    assert unused(row, named, "SEQ_CLS") == Unused(("review", "title"))


def test_the_known_metadata_is_documented():
    told = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    of_trees = {"message_tree_id", "tree_state", "__index_level_0__"}
    assert not [name for name in METADATA - of_trees if f"`{name}`" not in told]


ANSWERS = {
    "alpaca": ["output"],
    "question-answer": ["answer"],
    "prompt-completion": ["completion"],
    "classification": ["label"],
    "token-classification": ["tags"],
    "preference": ["chosen", "rejected"],
    "labelled-completion": ["completion", "label"],
    "prompt": ["answer"],
}
"""What a question does not depend on; other formats have the answer in the column of the question, or none."""


@pytest.mark.parametrize("name", ROWS)
def test_what_a_question_does_not_depend_on_is_found_in_every_format(name):
    task, row = ROWS[name]
    columns = Columns(text_column="sentence") if name == "classification" else Columns()
    form, _ = detect(columns, list(row), row, examples_of(task))
    answers = ANSWERS.get(name, [])
    assert find_unasked(form, [row]) == answers
    assert find_unasked(form, [{**row, "id": 7, "empty": ""}, {**row, "body": "x"}]) == [*answers, "body"]
    assert find_unasked(form, [{name: row[name] for name in row if name not in answers}]) == []
    assert ends_answered(form, [row]) is (name in {"messages", "sharegpt", "alpaca", "question-answer"})
