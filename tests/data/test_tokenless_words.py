"""What is told of tags that words have which become no token: a warning, or an error where nothing else teaches one."""

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer

from lora_ns.data.encode import encode_labelled_rows, refusals
from lora_ns.data.notices import Counted, Noted
from lora_ns.data.render import Renderer
from lora_ns.data.rows import Row
from lora_ns.data.source import Source
from lora_ns.formats import Columns, TokenClassification
from lora_ns.recipe.load import load_recipe

TAUGHT, LOST = (["a"], ["B-x"]), (["b", "", "c"], ["O", "B-x", "O"])


@pytest.fixture
def encode(write_recipe, minimal):
    loaded = load_recipe(write_recipe(minimal))
    renderer = Renderer(make_tokenizer(SHAPES["chatml"]), ())

    def encode(*sentences):
        rows = [
            Row(f"r:{number}", dict(zip(("tokens", "tags"), one, strict=True))) for number, one in enumerate(sentences)
        ]
        source = Source("r", rows)
        form = TokenClassification(Columns())
        return source, encode_labelled_rows(source, form, renderer, loaded.recipe.objective, ("O", "B-x"))

    return encode


def test_a_tag_that_other_words_teach_is_a_warning_for_each_source(encode):
    source, encoding = encode(TAUGHT, LOST, LOST, LOST)
    assert [(code, len(rows), rows[0]) for code, rows in encoding.tally.noted.found()] == [
        ("TAG001", 3, "r:1 (word 2 `B-x`)")
    ]
    assert refusals(source, encoding) == []


def test_a_tag_that_no_other_word_teaches_is_an_error_where_rows_are_trained_on(encode):
    source, encoding = encode(LOST, LOST)
    (problem,) = refusals(source, encoding)
    assert (problem.code, problem.where) == ("TAG002", "r")
    assert problem.what.endswith("the first at r:0, word 2 (`B-x`)")
    assert refusals(source, encoding, teaches=False) == []
    assert [code for code, _ in encoding.tally.noted.found(teaches=False)] == ["TAG001"]


def test_a_word_outside_of_everything_loses_nothing(encode):
    source, encoding = encode(TAUGHT, (["b", "", "c"], ["O", "O", "O"]))
    assert list(encoding.tally.noted.found()) == []
    assert not refusals(source, encoding)


def test_what_is_lost_at_first_may_be_taught_later_in_a_stream(encode):
    counted = Counted()
    counted.add(encode(LOST)[1].tally.noted)
    assert [code for code, *_ in counted.counted()] == ["TAG002"]
    counted.add(encode(LOST, TAUGHT)[1].tally.noted)
    assert list(counted.counted()) == [("TAG001", 2, "r:0 (word 2 `B-x`)")]
    assert Noted().untaught() == []
