"""Every quantiser of the registry answers what is asked of it in a way that the rest understands."""

from dataclasses import fields
from pathlib import Path

import pytest

from lora_ns.files.reading import tomllib
from lora_ns.methods import METHODS
from lora_ns.methods.capabilities import Capabilities
from lora_ns.quantizers import QUANTIZATIONS, REFUSED_STORED

STORED = {
    "bnb-4bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "bnb-8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig"}}},
    "gptq": {"quant_method": "gptq", "bits": 8},
    "awq": {"quant_method": "awq", "bits": 4},
}
"""What the settings of a base say that is stored so."""
each_quantizer = pytest.mark.parametrize("name", QUANTIZATIONS)


def test_every_quantiser_that_a_base_is_stored_in_has_settings_to_try():
    assert list(STORED) == [name for name, kind in QUANTIZATIONS.items() if kind.quant_method]


@pytest.mark.parametrize("name", STORED)
def test_a_stored_base_is_read_by_the_quantiser_of_its_settings_alone(name):
    found = [kind.read(STORED[name]) for kind in QUANTIZATIONS.values() if kind.is_named_by(STORED[name])]
    (read,) = [quantization for quantization in found if not isinstance(quantization, str)]
    assert type(read) is QUANTIZATIONS[name]
    assert read.method == name
    assert STORED[name]["quant_method"] not in REFUSED_STORED


@each_quantizer
def test_what_a_quantiser_asks_of_methods_they_answer(name):
    kind = QUANTIZATIONS[name]
    known = {"", *(field.name for field in fields(Capabilities))}
    assert {kind.capability, kind.capability_with_biases} <= known
    quantization = kind(method=name)
    for method in (METHODS["lora"].model_construct(), METHODS["loha"].model_construct()):
        for works in (quantization.works_under(method), quantization.works_with_biases_under(method)):
            assert works is True or (isinstance(works, str) and works)
    assert quantization.works_under(METHODS["lora"].model_construct()) is True


@each_quantizer
def test_what_a_quantiser_needs_comes_with_its_extra(name):
    kind = QUANTIZATIONS[name]
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = pyproject["project"]["optional-dependencies"]
    brought = {requirement.partition(">")[0] for requirement in extras.get(kind.extra, [])}
    assert set(kind.packages) <= brought


@each_quantizer
def test_packed_weights_come_with_what_is_beside_them(name):
    kind = QUANTIZATIONS[name]
    assert bool(kind.packed_weight) == bool(kind.packed_beside)
    assert kind.quant_method or not (kind.packed_weight or kind.only_stored)
