"""A token that the base has no embedding for is told with its row, whatever reads the row."""

import json
import shutil

import pytest

pytest.importorskip("transformers")

from plans import as_asked
from shapes import SHAPES, make_tokenizer

from lora_ns.data.encode_labels import TextEncoder, WordEncoder
from lora_ns.data.prepare import open_renderer
from lora_ns.data.render import make_renderer
from lora_ns.errors import ModelError
from lora_ns.formats import Conversation, Labelled, Message, PromptCompletion, RawText, RowFaultError, Tagged
from lora_ns.model.files import ASSETS, BaseFacts, find_base
from lora_ns.model.tokenizer import base_tokenizer
from lora_ns.model.vocabulary import Vocabulary, embeddings, vocabulary
from lora_ns.objectives.rendering import Rendering
from lora_ns.recipe.load import load_recipe

ODD = "<odd>"


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = make_tokenizer(SHAPES["chatml"])
    tokenizer.add_tokens([ODD])
    return tokenizer


@pytest.fixture(scope="module")
def known(tokenizer):
    number = tokenizer.convert_tokens_to_ids(ODD)
    return Vocabulary(number, {number: ODD})


@pytest.fixture(scope="module")
def readers(tokenizer, known):
    renderer = make_renderer(tokenizer, (tokenizer.eos_token_id,), Rendering(), known)
    texts, words = TextEncoder(tokenizer, 99, known), WordEncoder(tokenizer, 99, known)

    def chat(text):
        return Conversation((Message("user", text), Message("assistant", "yes")))

    return {
        "conversation": lambda text: renderer.examples(chat(text)),
        "pair": lambda text: renderer.examples(PromptCompletion("say", text)),
        "text": lambda text: renderer.examples(RawText(text)),
        "prompt": lambda text: renderer.prompt(PromptCompletion(text)),
        "chat prompt": lambda text: renderer.prompt(chat(text)),
        "class": lambda text: texts.encode(Labelled(text)),
        "tags": lambda text: words.encode(Tagged((text, "b"), ())),
    }


@pytest.mark.parametrize("reader", ["conversation", "pair", "text", "prompt", "chat prompt", "class", "tags"])
def test_a_row_with_a_token_beyond_the_embeddings_is_told(readers, known, reader):
    readers[reader]("plain")
    with pytest.raises(RowFaultError) as told:
        readers[reader](f"plain {ODD}")
    (number,) = known.beyond
    assert told.value.what == f"has token {number} (`{ODD}`), but the base has {number:,} embeddings"
    assert told.value.code == "TOK001"


FACTS = {"model_type": "m", "parameters": 1, "largest_dtype": "F32", "intermediate_size": 1, "num_hidden_layers": 1}


@pytest.mark.parametrize(
    ("size", "matrices", "rows"),
    [
        (320, {}, 320),
        (320, {"model.embed_tokens": (384, 4)}, 384),
        (320, {"position_embeddings": (512, 4)}, 320),
        (320, {"layers.0.mlp.up_proj": (512, 4)}, 320),
        (0, {"wte": (384, 4)}, 0),
    ],
)
def test_a_matrix_that_is_filled_up_has_more_embeddings_than_tokens(size, matrices, rows):
    facts = BaseFacts(**FACTS, hidden_size=4, vocab_size=size, max_position_embeddings=None, matrices=matrices)
    assert embeddings(facts) == rows


NAMES = [f"<n{number}>" for number in range(62)]
"""Tokens for the 60 rows of the embedded base that no token has, and two more."""


def nano(folder, tokens=(), **generation):
    """The embedded base with a larger tokenizer, and other settings of generation."""
    shutil.copytree(ASSETS / "nano", folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"] += [{"id": 260 + place, "content": name, **plain} for place, name in enumerate(tokens)]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


RECIPE = """
task_name = "t"
task_type = "CAUSAL_LM"
[model]
name_or_path = "base"
[peft]
method = "lora"
[dataset]
path = "rows.jsonl"
[training]
output_dir = "run"
"""


def opened(folder):
    (folder / "recipe.toml").write_text(RECIPE)
    return open_renderer(
        as_asked(load_recipe(folder / "recipe.toml")), find_base("base", "main", [folder], download=False)
    )


def test_an_end_token_beyond_the_embeddings_is_told_before_rows_are_read(tmp_path):
    nano(tmp_path / "base", eos_token_id=[257, 5000])
    with pytest.raises(ModelError, match="the stop token is token 5000, but the base has 320 embeddings"):
        opened(tmp_path)


def test_tokens_beyond_the_embeddings_are_known_and_told_by_their_names(tmp_path):
    found = opened(nano(tmp_path / "base", NAMES, eos_token_id=257).parent).vocabulary
    assert found.embeddings == 320
    assert found.beyond == {320: NAMES[-2], 321: NAMES[-1]}
    (note,) = found.notes
    assert "no embedding in the base, which has 320" in note


def test_tokens_that_a_recipe_adds_have_a_row_of_their_own(tmp_path):
    base = find_base(str(nano(tmp_path / "base", NAMES)), "main", [], download=False)
    tokenizer = base_tokenizer(base)
    found = vocabulary(base, tokenizer, [321])
    assert found.beyond == {320: NAMES[-2]}
    found.check_special("", "pad token", [257, 321])
