"""Any adapter as a LoRA with a scale of one: a reader that knows only `r` and `lora_alpha` gets the trained logits."""

import json

import pytest

pytest.importorskip("torch")

import matrix
import torch
import transformers
from safetensors.torch import load_file
from streamed import loading_of, write_adapter, write_base

from lora_ns.errors import UsageError
from lora_ns.exports.factors import Factors, factors_of, whole_modules
from lora_ns.exports.plain import cut_all, write
from lora_ns.machine.libraries import Noise
from lora_ns.methods import METHODS
from lora_ns.model.load import load_base
from lora_ns.model.saved_adapter import load_adapter

IDS = torch.tensor([[5, 9, 40, 7, 23, 60, 12, 3, 33, 21]])


def mergeable(row):
    return all(
        METHODS[key.partition("=")[2]].capabilities.merge is True for key in matrix.ROWS[row] if "peft.method=" in key
    )


def read_alone(base, folder):
    """Add `lora_alpha / r * B @ A` to each weight of a base, as a reader does that knows no other field."""
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    tensors = load_file(folder / "adapter_model.safetensors")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    for key, down in tensors.items():
        if not key.endswith(("lora_A.weight", "lora_embedding_A")):
            continue
        up = tensors[key.replace("_A", "_B")]
        assert down.shape[0] == config["r"]
        layer = model.get_submodule(key.removeprefix("base_model.model.").rpartition(".lora_")[0])
        update = scale * up @ down
        with torch.no_grad():
            layer.weight.add_(
                update if update.shape == layer.weight.shape and type(layer) is torch.nn.Linear else update.T
            )
    with torch.no_grad():
        return model(IDS).logits


def export(folder, base, *overrides, rank=None):
    """Write an adapter with random values and its plain form; returns the trained logits and the lost share."""
    write_adapter(folder, base, *overrides)
    with Noise():
        adapted = load_adapter(load_base(base, loading_of(base)), folder / "adapter").eval()
        with torch.no_grad():
            expected = adapted(IDS).logits
        stored = load_base(base, loading_of(base)) if "peft.use_kasa=true" in overrides else None
        updates, lost = cut_all(factors_of(adapted, stored), rank)
        (folder / "plain").mkdir()
        write(folder / "plain", updates, adapted.get_base_model(), whole_modules(adapted), {"task_type": "CAUSAL_LM"})
    return expected, lost


CONVERTS = [row for row in matrix.ROWS if mergeable(row) and row != "ln-tuning"]
SAMPLE = (
    "lora",
    "lora, rank-stabilised",
    "lora, DoRA",
    "lora, KaSA",
    'lora, "pissa"',
    'lora, "olora"',
    "lokr",
    "oft",
    "ia3",
)
FORMS = {
    "patterns": ("llama", "peft.rank_pattern={down_proj=4}", "peft.alpha_pattern={down_proj=64}"),
    "rank 64": ("llama", "peft.use_rslora=true", "peft.lora_r=64"),
    "transposed": ("gpt2", "peft.method=lora"),
    "experts": ("mixtral", "peft.method=lora"),
    "embedding": ("llama", 'peft.target_modules=["embed_tokens","q_proj"]'),
    "one layer": ("llama", "peft.layers_to_transform=[1]"),
}
"""Forms of LoRA that readers take for another: each with its base."""


def check_logits(folder, name, *overrides):
    base = write_base(folder, name)
    expected, lost = export(folder, base, *overrides)
    assert lost == 0
    found = read_alone(base.path, folder / "plain")
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    "row", [row if row in SAMPLE else pytest.param(row, marks=pytest.mark.matrix) for row in CONVERTS]
)
def test_a_reader_of_r_and_alpha_gets_the_trained_logits(tmp_path, row):
    check_logits(tmp_path, "llama", *matrix.ROWS[row])


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_lora_are_written_in_one_form(tmp_path, form):
    check_logits(tmp_path, *FORMS[form])
    config = json.loads((tmp_path / "plain/adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"]
    assert not any(config[name] for name in ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora"))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("peft.method=ln-tuning",), "input_layernorm`, a LlamaRMSNorm"),
        (('peft.bias="all"',), "trained biases"),
        (("peft.trainable_token_indices=[3,4]",), "trains rows of `model.embed_tokens`"),
    ],
)
def test_what_plain_lora_cannot_say_is_named(tmp_path, overrides, named):
    with pytest.raises(UsageError, match=named):
        export(tmp_path, write_base(tmp_path, "llama"), *overrides)


def test_a_cut_update_is_the_nearest_of_its_rank():
    torch.manual_seed(1)
    up, down = torch.randn(12, 7), torch.randn(7, 9)
    whole = Factors("linear", down, up)
    u, values, v = torch.linalg.svd(up @ down, full_matrices=False)
    found, lost = whole.cut(3)
    torch.testing.assert_close(found.up @ found.down, u[:, :3] * values[:3] @ v[:3])
    assert lost == pytest.approx(float(values[3:].norm() / values.norm()), rel=1e-5)
    shares = values.square().cumsum(0) / values.square().sum()
    for energy in (0.5, 0.9, 0.99):
        assert whole.cut(energy=energy)[0].rank == int((shares < energy).sum()) + 1
    exact, lost = whole.cut()
    assert (exact.rank, lost) == (7, pytest.approx(0, abs=1e-6))
    torch.testing.assert_close(exact.up @ exact.down, up @ down)
    wider = exact.padded(10)
    assert wider.rank == 10
    torch.testing.assert_close(wider.up @ wider.down, up @ down)
    both = whole.beside(exact)
    torch.testing.assert_close(both.up @ both.down, 2 * up @ down, rtol=1e-4, atol=1e-4)
