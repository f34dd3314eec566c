"""Which modules a method changes: names that say just that, and none that means nothing."""

import json

import pytest

pytest.importorskip("peft")

import peft
import torch
import transformers

import lora_ns.safety.deadline
from lora_ns.errors import PlanError
from lora_ns.methods import METHODS
from lora_ns.model.adapter import add_adapter
from lora_ns.model.files import Base
from lora_ns.model.modules import all_linear, resolve_targets
from lora_ns.model.saved_adapter import load_adapter

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "vocab_size": 300,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZES),
    "tied llama": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True),
    "bert": transformers.BertConfig(**SIZES),
    "roberta": transformers.RobertaConfig(**SIZES),
    "albert": transformers.AlbertConfig(**SIZES, embedding_size=16),
    "distilbert": transformers.DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=4, vocab_size=300),
    "electra": transformers.ElectraConfig(**SIZES, embedding_size=16),
}


class Stored:
    """What is known of a base without its weights."""

    def __init__(self, *matrices):
        self.matrices = dict.fromkeys(matrices, (32, 32))


def build(name, task="SEQ_CLS"):
    auto = {
        "CAUSAL_LM": transformers.AutoModelForCausalLM,
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    }[task]
    with torch.device("meta"):
        return auto.from_config(CONFIGS[name])


def adapt(folder, name, task="SEQ_CLS", matrices=(), **keys):
    base = Base("base", folder)
    base.__dict__["facts"] = Stored(*matrices)
    method = keys.pop("method", "lora")
    recipe = METHODS[method].model_validate_json(json.dumps({"method": method, **keys}))
    return add_adapter(build(name, task), recipe, task, base)


def trained_whole(model):
    return {
        name.split(".modules_to_save")[0].rpartition(".")[2]
        for name, _ in model.named_parameters()
        if _.requires_grad and "modules_to_save" in name
    }


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_a_pooler_is_trained_whole_if_the_base_has_none_and_adapted_if_it_has_one(tmp_path, name):
    assert trained_whole(adapt(tmp_path, name)) == {"classifier", "pooler"}
    stored = adapt(tmp_path, name, matrices=[f"{name}.pooler.dense"])
    assert trained_whole(stored) == {"classifier"}
    assert any("pooler" in key and "lora_A" in key for key, _ in stored.named_parameters())


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_layers_are_left_alone_whether_or_not_names_are_written_out(tmp_path, name):
    model = adapt(tmp_path, name, layers_to_transform=[1])
    adapted = [key for key, _ in model.named_parameters() if "lora_A" in key]
    assert adapted
    assert all(".layer.1." in key for key in adapted)


def test_only_what_reads_text_is_adapted_in_a_model_that_sees():
    config = transformers.Gemma3Config(
        text_config={**SIZES, "head_dim": 8, "num_key_value_heads": 2},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert any("vision" in name for name, _ in model.named_modules())
    found = all_linear(model, [])
    assert len(found) == 14
    assert all(name.startswith("model.language_model.layers.") for name in found)
    asked = {"target_modules": ["vision_tower.encoder.layers.0.mlp.fc1"]}
    assert resolve_targets(model, asked, "CAUSAL_LM") == {}


@pytest.mark.parametrize(
    ("name", "task", "keys", "told"),
    [
        (
            "tied llama",
            "CAUSAL_LM",
            {"target_modules": ["q_proj", "lm_head"]},
            "peft.target_modules: `lm_head` cannot be adapted: the base ties its head to its embeddings (remove it, or "
            'train it fully with `modules_to_save = ["lm_head"]`)',
        ),
        (
            "tied llama",
            "CAUSAL_LM",
            {"target_modules": ["q_proj", "embed_tokens"]},
            "peft.target_modules: `embed_tokens` cannot be adapted: the base ties its head to its embeddings (remove "
            "it)",
        ),
        (
            "llama",
            "CAUSAL_LM",
            {"target_modules": ["lm_head"]},
            "peft.target_modules: `lm_head` cannot be adapted: TRL's loss reads the weights of the head (remove it, or "
            'train it fully with `modules_to_save = ["lm_head"]`)',
        ),
        (
            "llama",
            "CAUSAL_LM",
            {"target_modules": ["q_proj", "v_projj"]},
            "peft.target_modules: `v_projj` matches no module of LlamaForCausalLM (did you mean `v_proj` or `k_proj` "
            "or `o_proj`?)",
        ),
        (
            "electra",
            "SEQ_CLS",
            {"target_modules": ["query", "out_proj"]},
            "peft.target_modules: `out_proj` matches only fully trained modules (classifier) (available: ",
        ),
        (
            "llama",
            "CAUSAL_LM",
            {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
            "peft.target_modules: no module that `v_proj` matches is adapted (remove it, or check `exclude_modules` "
            "and `layers_to_transform`)",
        ),
        (
            "distilbert",
            "SEQ_CLS",
            {"method": "prefix-tuning"},
            "peft.method: prefix-tuning is a key-value cache, which DistilBertForSequenceClassification does not "
            "support (choose another method, such as lora or prompt-tuning)",
        ),
    ],
)
def test_a_name_that_means_nothing_or_the_wrong_thing_is_refused(tmp_path, name, task, keys, told):
    with pytest.raises(PlanError) as caught:
        adapt(tmp_path, name, task, **keys)
    assert str(caught.value).startswith(told)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning"])
@pytest.mark.parametrize("name", ["albert", "electra", "distilbert"])
def test_virtual_tokens_are_as_wide_as_the_embeddings(tmp_path, name, method):
    model = adapt(
        tmp_path, name, method=method, **({"prompt_tuning_init": "RANDOM"} if method == "prompt-tuning" else {})
    )
    assert model.active_peft_config.token_dim == build(name).get_input_embeddings().embedding_dim


ENDLESS = "([a-z._0-9]+)+X"
"""Tries all ways to divide a name."""


@pytest.mark.parametrize(
    "keys",
    [
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {ENDLESS: 4}},
        {"modules_to_save": [ENDLESS]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "extra": {"layers_pattern": ENDLESS}},
    ],
    ids=lambda keys: list(keys)[-1],
)
def test_a_pattern_without_an_end_is_refused_in_time(tmp_path, monkeypatch, keys):
    monkeypatch.setattr(lora_ns.safety.deadline.bounded, "__defaults__", (0.2, lora_ns.safety.deadline.MEMORY))
    with pytest.raises(PlanError, match=r"takes more than 0.2 s on the module names"):
        adapt(tmp_path, "llama", "CAUSAL_LM", **keys)


def test_a_pattern_that_is_none_is_refused(tmp_path):
    keys = {"target_modules": ["q_proj"], "layers_to_transform": [0], "extra": {"layers_pattern": "("}}
    with pytest.raises(PlanError, match=r"peft.layers_pattern: `\(` is not a regular expression"):
        adapt(tmp_path, "llama", "CAUSAL_LM", **keys)


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_a_saved_adapter_whose_pattern_has_no_end_is_not_loaded(tmp_path, monkeypatch, key):
    peft.LoraConfig(**{"target_modules": ["q_proj"], key: ENDLESS}, task_type="CAUSAL_LM").save_pretrained(tmp_path)
    monkeypatch.setattr(lora_ns.safety.deadline.bounded, "__defaults__", (0.2, lora_ns.safety.deadline.MEMORY))
    with pytest.raises(PlanError, match=rf"adapter_config.json: peft.{key}: .* takes more than 0.2 s"):
        load_adapter(build("llama", "CAUSAL_LM"), tmp_path)
