"""Special tokens that a row spells out are seen, and a stop token within an answer is told from one at its end."""

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer

from lora_ns.data.render import Renderer
from lora_ns.data.special_tokens import asks_nothing, look_into, looks_like_chat, stops_within
from lora_ns.formats import FORMATS, Columns, Conversation, Message, PromptCompletion, RawText
from lora_ns.model.tokenizer import stop_token_ids


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def renderer(shape):
    tokenizer = make_tokenizer(shape)
    return Renderer(tokenizer, stop_token_ids(tokenizer, Path("nowhere")))


@pytest.fixture(scope="module")
def end(renderer, shape):
    """How the family ends an answer, as text."""
    return shape.answer("x").split("x")[1]


def contents(renderer, **columns):
    return look_into(renderer.tokenizer, renderer.stops, FORMATS["prompt-completion"](Columns(**columns)))


def chat(question, answer, **extra):
    return Conversation((Message("user", question), Message("assistant", answer, extra)))


def test_every_special_token_is_seen_wherever_it_is_spelled_out(shape, renderer):
    look = contents(renderer).spelled_out
    assert not look(chat("a < b", "</p> <|no|> [x]"))
    for token in shape.special:
        call = [{"type": "function", "function": {"name": "f", "arguments": {"text": f"a{token}"}}}]
        assert look(chat(f"a {token} b", "c")) == [token]
        assert look(chat("a", f"{token}c{token}")) == [token]
        assert look(chat("a", "", tool_calls=call)) == [token]
        assert look(Conversation(chat("a", "b").messages, ({"function": {"name": "f", "description": token}},))) == [
            token
        ]
        assert look(PromptCompletion(f"a{token}", "b")) == [token]
        assert not look(RawText(f"a{token}b"))


def test_a_completion_may_write_its_end_itself_and_a_template_may_mean_its_tokens(shape, renderer, end):
    assert not contents(renderer).spelled_out(PromptCompletion("a", f"b{end}\n"))
    assert contents(renderer).spelled_out(PromptCompletion("a", f"b{end}c{end}")) == [end]
    meant = contents(renderer, prompt_template=f"{end}{{q}}", completion_template="{a}")
    assert not meant.spelled_out(PromptCompletion(f"{end}a", "b"))
    assert meant.spelled_out(PromptCompletion(f"{end}a{end}", "b")) == [end]


def test_a_stop_token_within_an_answer_is_told_from_the_one_that_ends_it(renderer, end):
    def within(example):
        return [stops_within(row.input_ids, row.trained, renderer.stops) for row in renderer.examples(example)]

    assert within(chat("a", "b")) == [False]
    assert within(chat(f"a{end}c", "b")) == [False]
    assert within(chat("a", f"b{end}")) == [False]
    assert within(chat("a", f"b{end}c")) == [True]
    assert within(PromptCompletion("a", f"b{end}c")) == [True]
    assert within(PromptCompletion("a", "b")) == [False]
    turns = Conversation((*chat("a", "b").messages, *chat("c", f"d{end}e").messages))
    assert any(within(turns))


def test_an_empty_question_is_seen():
    assert asks_nothing(chat(" \n", "b"))
    assert asks_nothing(PromptCompletion("", "b"))
    assert not asks_nothing(chat("a", ""))
    assert not asks_nothing(RawText("a"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("User: hi\nAssistant: yo", True),
        ("Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Context:\n1\n\n### Response:\n2\n\n### End", True),
        ("### Instruction:\nAdd.\n\n### Response:\n2", True),
        ("The response: none. An instruction: wait.", False),
        ("Instruction: press the button.", False),
    ],
)
def test_a_rendered_question_and_answer_is_told_from_other_text(text, expected):
    assert looks_like_chat(RawText(text)) == expected
