"""The figures of `adapter check` are those that an independent reader measures on adapters of PEFT itself."""

import json

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402

from lora_ns.readers import read_adapter  # noqa: E402
from lora_ns.readers.updates import factors_of  # noqa: E402
from lora_ns.services.check_adapter import check_adapter  # noqa: E402


class Block(torch.nn.Module):
    """Two linear layers."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.down_proj = torch.nn.Linear(12, 20, bias=False), torch.nn.Linear(20, 12, bias=False)

    def forward(self, x):
        return x + self.down_proj(torch.tanh(self.q_proj(x)))


def plain_reader(folder, by_tensor, knows_rslora):
    """The update of each layer by a reader that knows lora_alpha and r alone, and perhaps rsLoRA."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    updates = {}
    for key, a in tensors.items():
        if key.endswith(".lora_A.weight"):
            b = tensors[key.replace("lora_A", "lora_B")]
            rank = a.shape[0] if by_tensor else config["r"]
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            divisor = rank**0.5 if knows_rslora and config["use_rslora"] else rank
            updates[name] = config["lora_alpha"] / divisor * (b @ a)
    return updates


KINDS = {
    "plain": {},
    "rsLoRA": {"use_rslora": True},
    "alpha_pattern": {"alpha_pattern": {"0.q_proj": 32, "down_proj": 1}},
    "rank_pattern": {"rank_pattern": {"1.down_proj": 2}},
    "all": {"use_rslora": True, "alpha_pattern": {"q_proj": 3}, "rank_pattern": {r"1\..*": 6}},
}


@pytest.fixture(params=KINDS)
def adapted(request, tmp_path):
    """A model with an adapter, and the folder that it was saved to."""
    torch.manual_seed(0)
    base = torch.nn.Sequential(Block(), Block())
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], **KINDS[request.param])
    model = peft.get_peft_model(base, config)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def trained_updates(model):
    layers = {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


@pytest.mark.parametrize(
    ("name", "by_tensor", "knows_rslora"), [("llama.cpp", True, False), ("ollama", True, False), ("vllm", False, True)]
)
def test_the_measured_factor_of_each_layer_is_the_one_that_check_gives(adapted, name, by_tensor, knows_rslora):
    model, folder = adapted
    trained, read = trained_updates(model), plain_reader(folder, by_tensor, knows_rslora)
    measured = {layer: (read[layer].norm() / trained[layer].norm()).item() for layer in trained}
    (reading,) = check_adapter(folder, [name]).readings
    (finding,) = [one for one in reading.findings if one.factors]
    given = sorted((one.kind, one.strength) for one in finding.factors for _ in range(one.layers))
    seen = sorted((layer.rpartition(".")[2], factor) for layer, factor in measured.items())
    assert [kind for kind, _ in given] == [kind for kind, _ in seen]
    assert [factor for _, factor in given] == pytest.approx([factor for _, factor in seen], rel=1e-5)
    assert (reading.verdict == "wrong") == any(abs(factor - 1) > 1e-6 for factor in measured.values())


def test_norms_are_those_of_the_updates_themselves(adapted):
    model, folder = adapted
    adapter, trained = read_adapter(folder), trained_updates(model)
    found = {layer.module: factors_of(adapter, layer).norm() for layer in adapter.layers}
    assert found == pytest.approx({name: update.norm().item() for name, update in trained.items()}, rel=1e-5)


def test_peft_merges_an_rslora_adapter_to_the_same_weights_with_the_advised_configuration(tmp_path):
    torch.manual_seed(0)
    base = torch.nn.Sequential(Block())
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=5, use_rslora=True, target_modules=["q_proj"]))
    torch.nn.init.normal_(model.base_model.model[0].q_proj.lora_B["default"].weight)
    model.save_pretrained(tmp_path)
    (reading,) = check_adapter(tmp_path, ["llama.cpp"]).readings
    advised = json.loads(f"{{{reading.findings[0].remedy.split('`')[1]}, {reading.findings[0].remedy.split('`')[3]}}}")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | advised))
    fresh = torch.nn.Sequential(Block())
    fresh.load_state_dict(before)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path).merge_and_unload()
    merged = model.merge_and_unload()
    assert torch.allclose(again[0].q_proj.weight, merged[0].q_proj.weight, rtol=1e-5, atol=1e-6)
    assert check_adapter(tmp_path, ["llama.cpp", "peft"]).is_read_right
