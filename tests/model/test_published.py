"""Published shapes: the computed sizes of well-known models are the real ones."""

import math

import pytest

from lora_ns.architectures.families import model_weights
from lora_ns.model.published import published_base, published_models
from lora_ns.recipe.model import Model

MODELS = published_models()
ENTRIES = {entry["ids"][0]: entry for entry in MODELS.values()}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_computed_size_is_the_published_one(name):
    weights = model_weights(ENTRIES[name]["config"])
    computed = sum(weight.size for weight in weights if not weight.tied_to)
    assert computed == pytest.approx(ENTRIES[name]["parameters"], rel=0.01)
    if ENTRIES[name]["config"]["model_type"] not in {"bert", "deberta-v2", "deepseek_v3"}:
        assert computed == ENTRIES[name]["parameters"]


@pytest.mark.parametrize("name", ENTRIES)
def test_a_published_base_has_all_facts_that_a_plan_needs(name):
    facts = published_base(Model(name_or_path=name)).facts
    assert facts.published_as == name
    assert facts.parameters == ENTRIES[name]["parameters"]
    assert min(facts.hidden_size, facts.intermediate_size, facts.num_hidden_layers, facts.vocab_size) > 0
    assert facts.max_position_embeddings > 0
    assert any(math.prod(shape) > 1000 for shape in facts.matrices.values())


def test_no_id_stands_for_two_models():
    ids = [name.lower() for entry in ENTRIES.values() for name in entry["ids"]]
    assert len(ids) == len(set(ids)) == len(MODELS)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Llama-2-7b-hf", True),
        ("META-LLAMA/llama-2-7b-HF", True),
        ("someone/Llama-2-7b-hf", False),
        ("./Llama-2-7b-hf", False),
    ],
)
def test_a_model_is_known_by_its_id_alone(name, known):
    assert (published_base(Model(name_or_path=name)) is not None) == known


def test_a_gguf_file_has_a_shape_of_its_own():
    assert published_base(Model(name_or_path="Qwen/Qwen3-8B", gguf_file="q4.gguf")) is None
