"""The weights that follow from settings are those of the model that transformers builds."""

import json

import pytest

pytest.importorskip("torch")

import transformers
from meta_models import NAMES, config_of, facts_of, is_encoder, settings_of, without_values

from lora_ns.architectures.decoders import DECODERS
from lora_ns.architectures.encoders import ENCODERS
from lora_ns.architectures.families import is_known, model_weights
from lora_ns.architectures.older_decoders import OLDER_DECODERS

SAME = {
    "cls.predictions.bias": "cls.predictions.decoder.bias",
    "lm_head.bias": "lm_head.decoder.bias",
    "predictions.bias": "predictions.decoder.bias",
}
"""Names of biases that transformers shares between two modules."""


@pytest.mark.parametrize("task", ["LM", "SEQ_CLS", "TOKEN_CLS"])
@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_those_of_transformers(name, task):
    own = ("MASKED_LM" if is_encoder(name) else "CAUSAL_LM") if task == "LM" else task
    model = without_values(name, own)
    if model is None:
        pytest.skip("transformers has no such model")
    names = SAME if is_encoder(name) else {}
    real = {names.get(key, key): tuple(value.shape) for key, value in model.named_parameters()}
    weights = model_weights(settings_of(name), task)
    assert {weight.name: weight.shape for weight in weights if not weight.tied_to} == real


@pytest.mark.parametrize("name", NAMES)
def test_settings_give_the_facts_that_files_give(name):
    facts = facts_of(name)
    weights = model_weights(settings_of(name))
    assert sum(weight.size for weight in weights if not weight.tied_to) == facts.parameters
    plain = [weight for weight in weights if not weight.tied_to and len(weight.shape) == 2]
    assert {weight.module: weight.shape for weight in plain if weight.name.endswith(".weight")} == facts.matrices


@pytest.mark.parametrize("name", [*DECODERS, *OLDER_DECODERS, *ENCODERS])
def test_the_defaults_of_a_family_are_those_of_transformers(name):
    defaults = {**DECODERS, **OLDER_DECODERS, **ENCODERS}[name].defaults
    real = json.loads(transformers.AutoConfig.for_model(name).to_json_string(use_diff=False))
    renamed = {"num_experts": "num_local_experts"}
    found = {key: real.get(key, real.get(renamed.get(key, key))) for key in defaults}
    if "num_key_value_heads" in defaults and not defaults["num_key_value_heads"]:
        found["num_key_value_heads"] = 0 if found["num_key_value_heads"] == found["num_attention_heads"] else None
    assert found == dict(defaults)


def test_an_unknown_family_has_no_weights_here():
    assert model_weights({"model_type": "mamba"}) is None
    assert not is_known({"model_type": "mamba"})


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_negative_size_is_refused(key):
    with pytest.raises(ValueError, match=key):
        model_weights({**settings_of("llama"), key: -1})


def test_a_head_that_is_tied_names_its_embeddings():
    (head,) = [weight for weight in model_weights(settings_of("gemma2")) if weight.tied_to]
    assert (head.name, head.tied_to) == ("lm_head.weight", "model.embed_tokens.weight")
    assert config_of("gemma2").tie_word_embeddings
