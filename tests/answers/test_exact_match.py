"""A pattern that has no end on a text is reported, with the row or with the number of the answer."""

from types import SimpleNamespace

import pytest
from shapes import SHAPES, make_tokenizer

import lora_ns.safety.deadline
from lora_ns.answers import exact_match as answers
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError
from lora_ns.recipe.load import load_recipe

ENDLESS, TEXT = "(a+)+$", "a" * 60 + "b"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(lora_ns.safety.deadline.bounded, "__defaults__", (0.2, 64 * 2**20))


class Recipe:
    class evaluation:  # noqa: N801 -- as the recipe has it
        answer_pattern = ENDLESS


def test_a_pattern_without_an_end_is_told_with_what_the_model_wrote():
    questions = answers.Questions(Recipe, [[1], [2]], ["a", "a"], None)
    with pytest.raises(DataError, match=r"answer_pattern` takes more than .* for evaluation row 2"):
        questions.score(["a", TEXT])


def test_a_pattern_without_an_end_on_an_expected_answer_is_told_with_its_row():
    rows = [Row("rows.jsonl:1", {"answer": "a"}), Row("rows.jsonl:2", {"answer": TEXT})]
    with pytest.raises(DataError, match=r"rows.jsonl:2: .*answer_pattern` takes more than"):
        for_each(rows, lambda row: answers._expected(row.values["answer"], ENDLESS))


@pytest.mark.parametrize(("shape", "learned"), [("qwen-3", "<think>\n\n</think>\n\nplum"), ("mistral", "plum")])
def test_an_answer_is_right_as_the_row_has_it_and_as_the_template_has_it_learned(write_recipe, shape, learned):
    pytest.importorskip("transformers")
    tokenizer = make_tokenizer(SHAPES[shape])
    stop = tokenizer.convert_tokens_to_ids(SHAPES[shape].eos)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = "<unk>"
    manifest = SimpleNamespace(
        recipe=load_recipe(write_recipe()).recipe,
        data=SimpleNamespace(format="messages", columns={}),
        problem_type=None,
        stop_token_ids=(stop,),
    )
    turns = [{"role": "user", "content": "Fruit?"}, {"role": "assistant", "content": "plum"}]
    questions = answers.Questions.of(manifest, tokenizer, [Row("rows.jsonl:1", {"messages": turns})])
    assert list(questions.rendered) == [learned]
    for written, share in ((learned, 1), ("plum", 1), ("<think>plum", 0), ("", 0)):
        assert questions.score([written]) == {"exact_match": share}
