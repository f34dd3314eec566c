"""Rows of choices in the forms of MMLU and ARC, and the figures of their likelihoods."""

import math

import pytest

from lora_ns.errors import DataError
from lora_ns.formats import RowFaultError
from lora_ns.statistics.groups import Groups
from lora_ns.suites import ChoiceSuite, Gold

TEXTS = ["red", "green", "blue", "black"]
ARC = {"text": TEXTS, "label": ["A", "B", "C", "D"]}
NUMBERED = {"text": TEXTS, "label": ["1", "2", "3", "4"]}


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (TEXTS, 2, 2),
        (TEXTS, "2", 2),
        (TEXTS, "C", 2),
        (TEXTS, "blue", 2),
        (TEXTS, " blue ", 2),
        (ARC, "C", 2),
        (ARC, "blue", 2),
        (NUMBERED, "3", 2),
        (NUMBERED, 3, 2),
        (["1", "2", "4", "8"], 2, 2),  # an index is a number, a number written as text is ambiguous
        (["3", "5", "7"], "5", 1),
        ([3, 5.5, 7], "5.5", 1),
        (["A", "B"], "B", 1),
    ],
)
def test_the_right_choice_is_an_index_a_letter_a_label_or_a_text(choices, answer, right):
    suite = ChoiceSuite()
    assert suite.offered({"question": "?", "choices": choices, "answer": answer}).right == right
    assert suite.offered({"question": "?", "choices": choices, "answerKey": answer}).right == right


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"choices": TEXTS, "answer": 4}, "`answer` is 4, which is none of the choices"),
        ({"choices": TEXTS, "answer": -1}, "`answer` is -1, which is none of the choices"),
        ({"choices": TEXTS, "answer": "E"}, "`answer` is 'E', which is none of the choices"),
        ({"choices": TEXTS, "answer": ""}, "`answer` is '', which is none of the choices"),
        ({"choices": ARC, "answer": 0}, "`answer` is 0, which is none of the choices"),
        ({"choices": NUMBERED, "answer": "0"}, "`answer` is '0', which is none of the choices"),
        ({"choices": TEXTS, "answer": True}, "`answer` is true or false"),
        ({"choices": TEXTS, "answer": None}, "`answer` is null"),
        ({"choices": TEXTS, "answer": 1.0}, "`answer` is 1.0"),
        ({"choices": TEXTS}, "no column `answer`"),
        ({"answer": 0}, "no column `choices`"),
        ({"choices": TEXTS, "answer": 0, "question": ["?"]}, "`question` is a list instead of text"),
        ({"choices": ["1", "2", "3"], "answer": "2"}, "`answer` is '2', which could mean several of the choices"),
        ({"choices": ["B", "A"], "answer": "A"}, "`answer` is 'A', which could mean several of the choices"),
        ({"choices": ["red"], "answer": 0}, "`choices` has 1 of the two or more"),
        ({"choices": [], "answer": 0}, "`choices` has 0 of the two or more"),
        ({"choices": ["red", "blue", "red "], "answer": 0}, "`choices` has 'red' twice"),
        ({"choices": ["red", " "], "answer": 0}, "`choices` has ' ' among its texts"),
        ({"choices": ["red", None], "answer": 0}, "`choices` has null among its texts"),
        ({"choices": "red", "answer": 0}, "`choices` is 'red' instead of a list"),
        ({"choices": {"text": TEXTS}, "answer": "A"}, "`choices.label` is null instead of a list"),
        ({"choices": {"text": TEXTS, "label": ["A", "B"]}, "answer": "A"}, "has 4 texts, but 2 labels"),
        ({"choices": {"text": TEXTS, "label": ["A", "B", "A", "D"]}, "answer": "A"}, "`choices.label` has 'A' twice"),
    ],
)
def test_a_row_without_one_right_choice_is_refused(row, what):
    with pytest.raises(RowFaultError) as caught:
        ChoiceSuite().offered({"question": "?", **row})
    assert what in caught.value.what
    assert caught.value.remedy or "question" in row


@pytest.mark.parametrize(("choices", "letters"), [(TEXTS, "ABCD"), (ARC, "ABCD"), (NUMBERED, "1234")])
def test_letters_are_scored_with_the_choices_below_the_question(choices, letters):
    offered = ChoiceSuite(answer_with="letter").offered({"question": "Which? ", "choices": choices, "answer": "blue"})
    assert offered.texts == tuple(letters)
    lines = [f"{letter}. {text}" for letter, text in zip(letters, TEXTS, strict=True)]
    assert offered.question == "\n".join(["Which?", *lines])


def test_more_choices_than_letters_have_labels_or_are_scored_as_texts():
    row = {"choices": [f"number {place}" for place in range(27)], "answer": 26}
    assert ChoiceSuite().offered(row).right == 26
    with pytest.raises(RowFaultError, match="27 choices have no letters"):
        ChoiceSuite(answer_with="letter").offered(row)


def test_columns_can_have_other_names_and_places():
    suite = ChoiceSuite(question="ctx", choices="data.endings", answer="gold")
    offered = suite.offered({"ctx": "A man", "data": {"endings": ["runs", "sits"]}, "gold": "1", "answer": "none"})
    assert (offered.texts, offered.right, offered.question) == (("runs", "sits"), 1, "A man")


def test_the_likeliest_choice_is_found_by_character_and_as_a_whole():
    pytest.importorskip("numpy")
    golds = [Gold("row 1", "no", {"choices": ["no", "certainly"], "answer": 0})]
    measures = ChoiceSuite().measure(golds, [[[4.0, 1], [9.0, 4]]])
    values = {name: one.of(Groups.of(1, None)).value() for name, one in measures.items()}
    assert list(values.items()) == [("acc_norm", 0.0), ("acc", 1.0)]


def test_a_loss_that_is_no_number_names_its_row():
    golds = [Gold("row 7", "no", {"choices": ["no", "yes"], "answer": 0})]
    with pytest.raises(DataError, match="row 7"):
        ChoiceSuite().measure(golds, [[[math.nan, 1], [9.0, 4]]])
