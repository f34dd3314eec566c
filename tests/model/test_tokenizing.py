"""A pattern of a tokenizer that has no end on a text, and what else its library gives up at, is told of the row."""

import pytest

pytest.importorskip("transformers")

from shapes import SHAPES, make_tokenizer
from tokenizers import Regex, models, pre_tokenizers

from lora_ns.data.encode_labels import TextEncoder, WordEncoder
from lora_ns.data.render import Renderer
from lora_ns.formats import Labelled, RawText, RowFaultError, Tagged
from lora_ns.model.tokenizing import encoded

ENDLESS, PLAIN = "a" * 40 + "!", "Say red."


@pytest.fixture
def endless():
    """A tokenizer whose pattern takes longer on one text than its library waits."""
    tokenizer = make_tokenizer(SHAPES["chatml"])
    pattern = pre_tokenizers.Split(Regex("(?:a|a)+(?=[0-9])"), "isolated")
    whole = [pattern, tokenizer.backend_tokenizer.pre_tokenizer]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(whole)
    return tokenizer


@pytest.fixture
def wordless():
    """A tokenizer that has no token for what it does not know."""
    tokenizer = make_tokenizer(SHAPES["chatml"])
    tokenizer.backend_tokenizer.model = models.WordLevel({"Say": 0, "red": 1}, unk_token="<none>")
    return tokenizer


def refused(call, *given):
    with pytest.raises(RowFaultError, match=r"the tokenizer cannot encode it: .+") as told:
        call(*given)
    assert "tokenizer.json" in told.value.remedy


def test_a_text_that_the_tokenizer_gives_up_at_is_a_fault_of_its_row(endless, wordless):
    assert encoded(endless, PLAIN)["input_ids"]
    refused(encoded, endless, ENDLESS)
    refused(encoded, wordless, "blue")
    with pytest.raises(TypeError):
        encoded(endless, PLAIN, not_a_setting_of=3, max_length="x", truncation=True)


def test_rows_beside_one_that_the_tokenizer_gives_up_at_are_encoded(endless):
    renderer = Renderer(endless, (endless.eos_token_id,))
    rows = [RawText(PLAIN), RawText(ENDLESS)]
    expected = renderer.examples(rows[0])
    renderer.ahead(rows)
    assert renderer.examples(rows[0]) == expected
    refused(renderer.examples, rows[1])


def test_texts_and_words_to_label_are_told_too(endless):
    refused(TextEncoder(endless, 64).encode, Labelled(ENDLESS, "a"))
    refused(WordEncoder(endless, 64).encode, Tagged((ENDLESS, "b"), ("O", "O")))
