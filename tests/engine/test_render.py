"""From examples to tokens, with the embedded model's tokenizer."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from lora_ns.basemodel import find_base
from lora_ns.engine.render import Renderer
from lora_ns.formats import RawText, RowFaultError


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(find_base("lorans:nano", "main", [], download=False).path)


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_raw_text_is_learned_whole_with_an_end(tokenizer, train_on):
    rendered = Renderer(tokenizer, (tokenizer.eos_token_id,), train_on).example(RawText("Once upon a time"))
    assert rendered.input_ids == [*tokenizer("Once upon a time")["input_ids"], tokenizer.eos_token_id]
    assert all(rendered.trained)


def test_raw_text_ends_once(tokenizer):
    text = f"The end.{tokenizer.eos_token}"
    rendered = Renderer(tokenizer, (tokenizer.eos_token_id,)).example(RawText(text))
    assert rendered.input_ids.count(tokenizer.eos_token_id) == 1


def test_raw_text_needs_an_end_token(tokenizer):
    renderer = Renderer(tokenizer, (tokenizer.eos_token_id,))
    tokenizer.eos_token = None
    with pytest.raises(RowFaultError, match="EOS001"):
        renderer.example(RawText("Once"))
