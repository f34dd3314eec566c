"""Exact match as a run asks it. A pattern that has no end on a text is reported with its row."""

from types import SimpleNamespace

import pytest
from shapes import SHAPES, make_tokenizer

import lora_ns.safety.deadline
from lora_ns.answers.ask import ask
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError
from lora_ns.recipe.load import load_recipe
from lora_ns.suites import ExactMatchSuite, Gold

ENDLESS, TEXT = ExactMatchSuite(answer_pattern="(a+)+$"), "a" * 60 + "b"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(lora_ns.safety.deadline.bounded, "__defaults__", (0.2, 64 * 2**20))


def test_a_pattern_without_an_end_is_told_with_what_the_model_wrote():
    golds = [Gold(f"evaluation row {number}", "a") for number in (1, 2)]
    with pytest.raises(DataError, match=r"evaluation row 2: the suite `exact-match` takes more than "):
        ENDLESS.measure(golds, ["a", TEXT])


def test_a_pattern_without_an_end_on_an_expected_answer_is_told_with_its_row():
    rows = [Row("rows.jsonl:1", {"answer": "a"}), Row("rows.jsonl:2", {"answer": TEXT})]
    with pytest.raises(DataError, match=r"rows.jsonl:2: .*answer_pattern` takes more than"):
        for_each(rows, lambda row: ENDLESS.check(Gold(row.where, row.values["answer"])))


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
    opened = SimpleNamespace(manifest=manifest, tokenizer=tokenizer, vocabulary=lambda: None, room=lambda: None)
    turns = [{"role": "user", "content": "Fruit?"}, {"role": "assistant", "content": "plum"}]
    asked = ask(opened, ExactMatchSuite(), [Row("rows.jsonl:1", {"messages": turns})], manifest)
    assert [gold.rendered.strip() for gold in asked.golds] == [learned]
    for written, is_right in ((learned, True), ("plum", True), ("<think>plum", False), ("", False)):
        assert bool(asked.suite.measure(asked.golds, [written])["exact_match"].scores[0]) == is_right
