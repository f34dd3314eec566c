"""The bytes of a quantised base are those of bitsandbytes and torchao."""

import pytest

pytest.importorskip("torch")

import torch
from meta_models import AUTOS, NAMES, base_of, config_of, facts_of, is_encoder

from lora_ns.model.load import whole_modules as real_whole_modules
from lora_ns.plan.memory.weights import BYTES, weight_bytes, weights_of, whole_modules
from lora_ns.quantizers import Bnb4Bit, Bnb8Bit, NoQuantization, TorchAo

FORMS = {
    "none": NoQuantization(),
    "nf4": Bnb4Bit(method="bnb-4bit"),
    "nf4, plain scales": Bnb4Bit(method="bnb-4bit", bnb_4bit_use_double_quant=False),
    "fp4": Bnb4Bit(method="bnb-4bit", bnb_4bit_quant_type="fp4"),
    "int8": Bnb8Bit(method="bnb-8bit"),
    "torchao": TorchAo(method="torchao"),
}


def tensors(value):
    """All plain tensors of a parameter: the packed weight, and what is stored with it."""
    if hasattr(value, "tensor_data_names"):
        return [part for name in value.tensor_data_names for part in tensors(getattr(value, name))]
    state = getattr(value, "quant_state", None)
    scales = [state.absmax, state.code] if state else []
    if state and state.nested:
        scales += [state.offset, state.state2.absmax, state.state2.code]
    rows = [value.SCB] if getattr(value, "SCB", None) is not None else []
    return [value.data, *scales, *rows]


def held(model):
    parts = [part for value in model.parameters() for part in tensors(value)]
    return sum({part.untyped_storage().data_ptr(): part.nbytes for part in parts}.values())


def check(tmp_path, name, task, form, dtype="bfloat16"):
    facts, quantizer = facts_of(name), FORMS[form]
    torch.manual_seed(0)
    AUTOS[task].from_config(config_of(name)).save_pretrained(tmp_path)
    with torch.device("meta"):
        whole = real_whole_modules(AUTOS[task].from_config(config_of(name)), base_of(facts))
    weights = weights_of(facts, task)
    assert whole_modules(facts, weights) == set(whole)
    settings = {}
    if quantizer.bits is not None:
        names = [weight.module for weight in weights if set(weight.name.split(".")).intersection(whole)]
        kind = getattr(torch, dtype)
        settings = {"quantization_config": quantizer.settings(names, kind, False), "device_map": {"": "cpu"}}
    model = AUTOS[task].from_pretrained(tmp_path, dtype=getattr(torch, dtype), **settings)
    assert weight_bytes(weights, dtype, quantizer, whole) == held(model)


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_of_a_quantised_base_are_known(tmp_path, form):
    pytest.importorskip("torchao" if form == "torchao" else "bitsandbytes")
    check(tmp_path, "llama", "CAUSAL_LM", form)


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize(("name", "task"), [("bert", "SEQ_CLS"), ("gpt2", "CAUSAL_LM"), ("mixtral", "CAUSAL_LM")])
def test_what_is_not_quantised_is_in_the_dtype_of_the_run(tmp_path, name, task, dtype):
    pytest.importorskip("bitsandbytes")
    check(tmp_path, name, task, "nf4", dtype)


@pytest.mark.matrix
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_known_for_every_architecture(tmp_path, name, form):
    check(tmp_path, name, "SEQ_CLS" if is_encoder(name) else "CAUSAL_LM", form)
