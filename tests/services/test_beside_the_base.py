"""What else is in a base's folder changes nothing of the model that is loaded from it."""

import json
import shutil

import pytest

pytest.importorskip("torch")

import torch

from lora_ns.model.files import ASSETS, find_base
from lora_ns.model.load import Loading, load_base

LOADING = Loading("CAUSAL_LM", "float32", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, lora_run):
    """The embedded base with a trained adapter in its folder, whose weights are as large as they can be."""
    folder = tmp_path_factory.mktemp("beside") / "base"
    shutil.copytree(ASSETS / "nano", folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(lora_run.adapter / name, folder / name)
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    return folder


def test_an_adapter_beside_a_model_is_not_put_onto_it(folder):
    base = find_base(str(folder), "main", [], download=False)
    model, alone = load_base(base, LOADING), load_base(find_base("lorans:nano", "main", [], False), LOADING)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in alone.named_modules()]
    ids = torch.arange(32)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, alone(ids).logits)


def test_an_adapter_that_names_another_base_leads_nowhere(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "base")
    file = tmp_path / "base" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "../elsewhere"}))
    base = find_base(str(tmp_path / "base"), "main", [], download=False)
    assert load_base(base, LOADING).num_parameters() == base.facts.parameters
