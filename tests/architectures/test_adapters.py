"""The tensors that an adapter is said to train are those that PEFT adds: shape by shape."""

import json
from collections import Counter

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from architectures import ALL, CAUSAL
from meta_models import AUTOS, base_of, config_of, facts_of

from lora_ns.errors import MissingError, PlanError
from lora_ns.methods import METHODS
from lora_ns.model.adapter import add_adapter
from lora_ns.plan.memory.adapter import adapter_size

SMALL = {
    "miss": {"r": 8},
    "psoft": {"r": 8},
    "shira": {"r": 4},
    "fourierft": {"n_frequency": 64},
    "waveft": {"n_frequency": 64},
    "vera": {"r": 8},
    "pvera": {"r": 8},
    "oft": {"oft_block_size": 8},
    "trainable-tokens": {"token_indices": [3, 4]},
}
"""Keys that make a method fit tiny layers."""
VARIANTS = {
    "lora": [
        {"use_dora": True},
        {"use_kasa": True, "lora_r": 4},
        {"init_lora_weights": "mica", "lora_r": 4},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"trainable_token_indices": [3, 4, 5]},
        {"layers_to_transform": [1]},
        {"rank_pattern": {"q_proj": 5}},
        {"rank_pattern": {"dense": 5}},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"exclude_modules": ["q_proj"]},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
    ],
    "lokr": [{"decompose_both": True, "r": 1}, {"decompose_factor": 4}],
    "gralora": [{"hybrid_r": 3}],
    "miss": [{"r": 8, "init_weights": "bat"}, {"r": 8, "init_weights": "mini", "mini_r": 2}],
    "psoft": [{"r": 8, "psoft_orth": False}],
    "oft": [{"oft_block_size": 8, "block_share": True}],
    "peanut": [{"depth": 2}],
    "deft": [{"para": True}],
    "osf": [{"effective_rank": 5}],
    "p-tuning": [{"encoder_reparameterization_type": "LSTM"}],
    "road": [{"variant": "road_2"}, {"variant": "road_4"}],
    "lily": [{"stride_A": 2, "num_B": 3}],
    "tinylora": [{"weight_tying": 0.5}],
    "cartridge": [{"num_frozen_tokens": 3}],
}
UNEQUAL = frozenset({"adamss"})
"""Methods that divide a layer by its values: the sum of the parts is known, not each of them."""
ABSENT = frozenset({("osf", "gpt2")})
"""Methods that PEFT adds to an architecture without adapting a layer of it."""


def method(name, keys):
    return METHODS[name].model_validate_json(json.dumps({"method": name, **SMALL.get(name, {}), **keys}))


def check(architecture, task, name, keys):
    facts, chosen = facts_of(architecture), method(name, keys)
    torch.manual_seed(0)
    model = AUTOS[task].from_config(config_of(architecture))
    whole = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    first = chosen if keys.get("init_lora_weights") == "mica" else chosen.plainly_started()
    try:
        adapted = add_adapter(model, first, task, base_of(facts))
    except (PlanError, MissingError, StopIteration):
        pytest.skip("PEFT does not add the method to this architecture")
    parameters = {key: value for key, value in adapted.named_parameters() if "ranknum" not in key}
    trained = [tuple(value.shape) for value in parameters.values() if value.requires_grad]
    size = adapter_size(chosen, facts, task)
    assert size.parameters == sum(torch.Size(shape).numel() for shape in trained)
    if name not in UNEQUAL:
        assert Counter(size.trained) == Counter(trained)
    stored = [value.untyped_storage() for value in (*adapted.parameters(), *adapted.buffers())]
    return size, sum({storage.data_ptr(): storage.nbytes() for storage in stored}.values()) - whole


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("architecture", "task"), [("llama", "CAUSAL_LM"), ("bert", "SEQ_CLS")])
def test_the_trained_tensors_of_a_method_are_known(architecture, task, name):
    check(architecture, task, name, {})


@pytest.mark.parametrize(
    ("name", "keys"), [(name, keys) for name, found in VARIANTS.items() for keys in found], ids=str
)
def test_the_trained_tensors_of_a_variant_are_known(name, keys):
    check("llama", "CAUSAL_LM", name, keys)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3-moe"])
def test_the_trained_tensors_of_experts_are_known(architecture):
    check(architecture, "CAUSAL_LM", "lora", {"target_parameters": ["mlp.experts.gate_up_proj"]})


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT, about Conv1D and tied heads
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("architecture", ALL)
def test_the_trained_tensors_are_known_for_every_architecture(architecture, name):
    if (name, architecture) in ABSENT:
        pytest.skip("PEFT adapts nothing")
    tasks = ("CAUSAL_LM", "SEQ_CLS") if architecture in CAUSAL else ("SEQ_CLS", "TOKEN_CLS")
    for task in tasks:
        for keys in ({}, *VARIANTS.get(name, ())):
            try:
                check(architecture, task, name, keys)
            except pytest.skip.Exception:
                continue


HIDDEN = frozenset({"shira"})
"""Methods that hold tensors that are neither parameters nor buffers."""


@pytest.mark.parametrize("name", [name for name in METHODS if name not in HIDDEN])
def test_what_an_adapter_holds_beside_its_trained_tensors_is_known(name):
    size, added = check("llama", "CAUSAL_LM", name, {})
    assert added == 4 * size.parameters + size.frozen_bytes
