"""A model that is merged module by module is the one that PEFT merges and transformers saves, bit for bit."""

import json
import shutil
from dataclasses import replace

import pytest

pytest.importorskip("torch")

import peft
import torch
import transformers
from matrix import ROWS
from safetensors.torch import load_file, save_file
from streamed import (
    differences,
    load_quantised,
    loading_of,
    logits_of,
    merge_dequantised,
    merge_whole,
    store_quantised,
    stream_into,
    weights,
    write_adapter,
    write_base,
)

import lora_ns.merging.stream
from lora_ns.errors import ModelError, PlanError, RecipeError, RunError, UsageError
from lora_ns.merging.lockstep import Lockstep
from lora_ns.merging.refusal import WholeModelError
from lora_ns.merging.units import find_units
from lora_ns.methods import METHODS
from lora_ns.model.adapter import WEIGHTS
from lora_ns.model.files import find_base
from lora_ns.model.load import difference, divergence, load_base
from lora_ns.quantizers import QUANTIZATIONS

BASES = ("nano", "llama", "mixtral", "qwen3-moe", "gemma2", "gpt2")
TIED = ("gemma2", "gpt2", "nano")
NEEDS_BASE = ("lora, KaSA", 'lora, "mica"', "osf", "tinylora", "frod", "adamss", "psoft")
"""Rows of which PEFT computes something from the weights of the base, or merges several modules at once."""
FORMS = {
    "rank_pattern": ("peft.rank_pattern={down_proj=4}", "peft.alpha_pattern={down_proj=64}"),
    "layers": ("peft.layers_to_transform=[1]",),
    "head": ('peft.modules_to_save=["lm_head"]',),
    "norms": ('peft.modules_to_save=["input_layernorm"]',),
}
"""Forms of LoRA that are no rows of the table."""


def merges(row):
    return all(METHODS[key.partition("=")[2]].capabilities.merge is True for key in ROWS[row] if "peft.method=" in key)


MERGEABLE = [row for row in ROWS if merges(row)]
CORE = [
    *((base, "lora") for base in BASES if base != "llama"),
    *(("llama", row) for row in ("lora, DoRA", "lora, rank-stabilised", "vera", "oft", "ia3", "ln-tuning")),
]


@pytest.fixture(scope="session")
def base_of(tmp_path_factory):
    bases = {}

    def base_of(name):
        if name not in bases:
            bases[name] = write_base(tmp_path_factory.mktemp(name), name)
        return bases[name]

    return base_of


def check_equal(base, overrides, folder):
    """Stream an adapter with the overrides, and compare with PEFT and transformers."""
    write_adapter(folder, base, *overrides)
    merged = stream_into(folder / "streamed", base, folder / "adapter")
    merge_whole(base, folder / "adapter", folder / "whole")
    assert differences(folder / "streamed", folder / "whole") == []
    assert merged.largest_difference < 1e-4
    assert merged.rounded_difference == merged.largest_difference


@pytest.mark.parametrize(("name", "row"), CORE)
def test_streamed_is_merged_and_saved(base_of, tmp_path, name, row):
    check_equal(base_of(name), ROWS[row], tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("row", MERGEABLE)
def test_every_method_is_streamed_or_needs_the_whole_model(base_of, tmp_path, name, row):
    try:
        write_adapter(tmp_path, base_of(name), *ROWS[row])
    except (PlanError, RecipeError) as error:
        pytest.skip(f"no such adapter: {error}")
    is_empty = not load_file(tmp_path / "adapter" / WEIGHTS)
    shutil.rmtree(tmp_path / "adapter")
    if is_empty:  # OSF passes over Conv1D
        with pytest.raises(UsageError, match="has no weights: the adapter changes nothing"):
            check_equal(base_of(name), ROWS[row], tmp_path)
        return
    if row not in NEEDS_BASE:
        check_equal(base_of(name), ROWS[row], tmp_path)
        return
    with pytest.raises(WholeModelError, match=r"from the weights of the base|together with other modules"):
        check_equal(base_of(name), ROWS[row], tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_lora_are_streamed(base_of, tmp_path, form):
    check_equal(base_of("llama"), FORMS[form], tmp_path)


@pytest.mark.matrix
@pytest.mark.parametrize("name", [name for name in BASES if name != "llama"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_lora_are_streamed_over_every_base(base_of, tmp_path, name, form):
    try:
        write_adapter(tmp_path, base_of(name), *FORMS[form])
    except (ModelError, PlanError, RecipeError) as error:
        pytest.skip(f"no such adapter: {error}")
    shutil.rmtree(tmp_path / "adapter")
    if form == "head" and name in TIED:
        with pytest.raises(WholeModelError, match="which is tied"):
            check_equal(base_of(name), FORMS[form], tmp_path)
        return
    check_equal(base_of(name), FORMS[form], tmp_path)


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("llama", ROWS["lora, KaSA"], "PEFT computes parts of this adapter from the weights of the base"),
        ("mixtral", ('peft.target_parameters=["mlp.experts.down_proj"]',), "the adapter has `target_parameters`"),
        ("gpt2", ('peft.modules_to_save=["lm_head"]',), "the adapter changes `lm_head.weight`, which is tied"),
        ("gpt2", ('peft.bias="all"',), "the adapter has its own values for `transformer.h.0.ln_1.bias`"),
        ("gpt2", ('peft.bias="lora_only"',), r"its own values for `transformer.h.0.attn.c_attn.base_layer.bias`"),
        ("llama", ("peft.trainable_token_indices=[5, 6]",), "PEFT merges `model.embed_tokens` together with other"),
    ],
)
def test_what_is_not_a_module_of_its_own_needs_the_whole_model(base_of, tmp_path, name, overrides, reason):
    write_adapter(tmp_path, base_of(name), *overrides)
    with pytest.raises(WholeModelError, match=reason):
        stream_into(tmp_path / "streamed", base_of(name), tmp_path / "adapter")
    assert not list((tmp_path / "streamed").glob("*.safetensors*"))


def run_twice(self, given):
    return self.down_proj(self.up_proj(given)) + self.down_proj(self.gate_proj(given))


def use_weight(self, given):
    return self.up_proj(given) @ self.down_proj.weight.T


def return_mapping(self, given):
    return {"outputs": given}


@pytest.mark.parametrize(
    ("of", "forward", "reason"),
    [
        ("LlamaMLP", run_twice, "the model uses `model.layers.0.mlp.down_proj` more than once"),
        ("LlamaMLP", use_weight, "its modules do not work one at a time"),
        ("LlamaRMSNorm", return_mapping, "its modules do not work one at a time|a module returns dict"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_which_modules_do_not_work_alone_needs_to_be_whole(
    base_of, tmp_path, monkeypatch, of, forward, reason, dtype
):
    write_adapter(tmp_path, base_of("llama"))
    monkeypatch.setattr(getattr(transformers.models.llama.modeling_llama, of), "forward", forward)
    with pytest.raises(WholeModelError, match=reason):
        stream_into(tmp_path / "streamed", base_of("llama"), tmp_path / "adapter", dtype)
    assert not list((tmp_path / "streamed").glob("*.safetensors"))


def test_parameters_beside_an_adapted_module_need_the_whole_model():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.inner = torch.nn.Parameter(torch.ones(1)), torch.nn.Linear(2, 2)

    adapted = peft.get_peft_model(torch.nn.ModuleDict({"scaled": Scaled()}), peft.LoraConfig(target_modules=["inner"]))
    with pytest.raises(WholeModelError, match="`scaled` has parameters beside adapted modules"):
        find_units(adapted, {})


def test_a_module_that_was_not_merged_is_seen(base_of, tmp_path, monkeypatch):
    write_adapter(tmp_path, base_of("llama"))
    monkeypatch.setattr(lora_ns.merging.stream, "adapted_modules", lambda _: {"q_proj": 2, "other": 97})
    with pytest.raises(RunError, match="14 of 99 adapted modules were merged"):
        stream_into(tmp_path / "streamed", base_of("llama"), tmp_path / "adapter")
    assert not list((tmp_path / "streamed").glob("*.safetensors"))


def test_a_weight_that_is_stored_under_two_names_needs_the_whole_model(tmp_path):
    base = write_base(tmp_path, "gpt2")
    stored = load_file(base.path / "model.safetensors")
    twice = "transformer.h.0.mlp.c_fc.bias"
    save_file({**stored, twice.removeprefix("transformer."): stored[twice] + 1}, base.path / "model.safetensors")
    base = find_base(str(base.path), "main", [], download=False)
    write_adapter(tmp_path, base)
    with pytest.raises(WholeModelError, match=f"several tensors of the base are `{twice}`"):
        stream_into(tmp_path / "streamed", base, tmp_path / "adapter")


def test_a_tied_weight_that_is_stored_twice_needs_the_whole_model(tmp_path):
    base = write_base(tmp_path, "gpt2")
    stored = load_file(base.path / "model.safetensors")
    stored["lm_head.weight"] = stored["transformer.wte.weight"].clone()
    save_file(stored, base.path / "model.safetensors", metadata={"format": "pt"})
    base = find_base(str(base.path), "main", [], download=False)
    write_adapter(tmp_path, base)
    with pytest.raises(WholeModelError, match=r"stores the tied weight `lm_head.weight` twice"):
        stream_into(tmp_path / "streamed", base, tmp_path / "adapter")


def test_names_without_the_prefix_of_the_model_are_written_as_transformers_writes_them(tmp_path):
    base = write_base(tmp_path, "gpt2")
    stored = load_file(base.path / "model.safetensors")
    renamed = {name.removeprefix("transformer."): value for name, value in stored.items()}
    save_file(renamed, base.path / "model.safetensors", metadata={"format": "pt"})
    check_equal(find_base(str(base.path), "main", [], download=False), (), tmp_path)
    assert weights(tmp_path / "streamed").keys() == stored.keys()


QUANTIZED = {
    "nf4": {"method": "bnb-4bit"},
    "fp4": {"method": "bnb-4bit", "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": False},
    "int8": {"method": "bnb-8bit"},
}


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("name", ["nano", "mixtral"])
def test_a_quantised_base_is_merged_with_the_values_that_training_had(base_of, tmp_path, name, kind):
    pytest.importorskip("bitsandbytes")
    base = base_of(name)
    quantization = QUANTIZATIONS[QUANTIZED[kind]["method"]](**QUANTIZED[kind])
    write_adapter(tmp_path, base)
    merged = stream_into(tmp_path / "streamed", base, tmp_path / "adapter", quantization=quantization)
    merge_dequantised(base, tmp_path / "adapter", tmp_path / "whole", quantization)
    assert differences(tmp_path / "streamed", tmp_path / "whole") == []
    assert merged.largest_difference < 1e-4
    if kind != "int8":  # whose layers round their inputs
        trained = logits_of(load_quantised(base, quantization), base, 2, tmp_path / "adapter")
        plain = logits_of(load_base(replace(base, path=tmp_path / "whole"), loading_of(base)), base, 2)
        assert divergence(trained, plain) < 1e-5
        assert torch.equal(trained.argmax(-1), plain.argmax(-1))
    assert (merged.int8_difference is None) == (merged.int8_divergence is None) == (kind != "int8")
    assert "quantization_config" not in json.loads((tmp_path / "streamed/config.json").read_text())
    merge_whole(base, tmp_path / "adapter", tmp_path / "unquantised")
    assert differences(tmp_path / "streamed", tmp_path / "unquantised")


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("name", ["nano", "mixtral"])
def test_a_base_that_is_stored_quantised_is_merged_with_the_stored_values(base_of, tmp_path, name, kind):
    pytest.importorskip("bitsandbytes")
    quantization = QUANTIZATIONS[QUANTIZED[kind]["method"]](**QUANTIZED[kind])
    write_adapter(tmp_path, base_of(name))
    base = store_quantised(base_of(name), quantization, tmp_path / "stored")
    merged = stream_into(tmp_path / "streamed", base, tmp_path / "adapter", quantization=quantization)
    merge_dequantised(base, tmp_path / "adapter", tmp_path / "whole", quantization)
    assert differences(tmp_path / "streamed", tmp_path / "whole") == []
    assert merged.largest_difference < 1e-4
    trained = logits_of(load_quantised(base, quantization), base, 3 if kind == "int8" else 2, tmp_path / "adapter")
    plain = logits_of(load_base(replace(base, path=tmp_path / "whole"), loading_of(base)), base, 3)
    if kind == "int8":
        assert merged.int8_difference == pytest.approx(difference(trained, plain), rel=0.02)
    else:
        assert divergence(trained[: len(plain)], plain[: len(trained)]) < 1e-5
    assert "quantization_config" not in json.loads((tmp_path / "streamed/config.json").read_text())


def test_a_stored_weight_that_is_transposed_needs_the_whole_model(base_of, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantization = QUANTIZATIONS["bnb-4bit"](method="bnb-4bit")
    write_adapter(tmp_path, base_of("gpt2"))
    base = store_quantised(base_of("gpt2"), quantization, tmp_path / "stored")
    with pytest.raises(WholeModelError, match=r"is stored quantised, and `.*` has shape \[96, 32\] in the weights"):
        stream_into(tmp_path / "streamed", base, tmp_path / "adapter", quantization=quantization)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_the_distance_from_training_in_8_bits_is_that_of_the_two_models(base_of, tmp_path, name, dtype):
    pytest.importorskip("bitsandbytes")
    base, quantization = base_of(name), QUANTIZATIONS["bnb-8bit"](method="bnb-8bit")
    write_adapter(tmp_path, base)
    merged = stream_into(tmp_path / "streamed", base, tmp_path / "adapter", dtype, quantization=quantization)
    merge_dequantised(base, tmp_path / "adapter", tmp_path / "whole", quantization)
    rows = 3 if dtype == "float32" else 4
    trained = logits_of(load_quantised(base, quantization), base, rows, tmp_path / "adapter")
    plain = logits_of(load_base(replace(base, path=tmp_path / "whole"), loading_of(base)), base, rows)
    assert merged.int8_difference == pytest.approx(difference(trained, plain), rel=0.02)
    assert merged.int8_divergence == pytest.approx(divergence(trained, plain), rel=0.02)
    assert merged.int8_difference > 1e-4


def test_a_quantised_layer_of_another_kind_needs_the_whole_model(base_of, tmp_path):
    pytest.importorskip("bitsandbytes")
    write_adapter(tmp_path, base_of("gpt2"))
    quantization = QUANTIZATIONS["bnb-4bit"](method="bnb-4bit")
    with pytest.raises(WholeModelError, match="is quantised and is a Conv1D"):
        stream_into(tmp_path / "streamed", base_of("gpt2"), tmp_path / "adapter", quantization=quantization)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_shards_have_the_chosen_size_and_transformers_reads_them(base_of, tmp_path, dtype):
    base, largest = base_of("mixtral"), 40_000
    write_adapter(tmp_path, base)
    merged = stream_into(tmp_path / "streamed", base, tmp_path / "adapter", dtype, largest)
    merge_whole(base, tmp_path / "adapter", tmp_path / "whole", dtype)
    assert differences(tmp_path / "streamed", tmp_path / "whole") == []
    index = json.loads((tmp_path / "streamed/model.safetensors.index.json").read_text())
    found = weights(tmp_path / "streamed")
    sizes = {name: value.numel() * value.element_size() for name, value in found.items()}
    assert index["metadata"] == {"total_parameters": merged.parameters, "total_size": sum(sizes.values())}
    assert index["weight_map"].keys() == found.keys()
    for file in set(index["weight_map"].values()):
        parts = load_file(tmp_path / "streamed" / file)
        assert {index["weight_map"][name] for name in parts} == {file}
        assert len(parts) == 1 or sum(sizes[name] for name in parts) <= largest
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "streamed")
    assert str(again.dtype) == f"torch.{dtype}"
    assert merged.largest_difference < 1e-4 < merged.rounded_difference


def test_a_key_of_the_adapter_that_is_not_used_is_named(base_of, tmp_path):
    write_adapter(tmp_path, base_of("llama"))
    file = tmp_path / "adapter" / WEIGHTS
    saved = load_file(file)
    saved["base_model.model.model.layers.9.mlp.down_proj.lora_A.weight"] = next(iter(saved.values())).clone()
    save_file(saved, file, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"layers.9.mlp.down_proj.lora_A.weight` has no place in the model"):
        stream_into(tmp_path / "streamed", base_of("llama"), tmp_path / "adapter")


def test_a_module_that_answers_otherwise_after_merging_is_seen(base_of, tmp_path, monkeypatch):
    write_adapter(tmp_path, base_of("llama"))
    load = Lockstep._merge

    def nudge(self, unit):
        load(self, unit)
        if unit.name.endswith("layers.1.mlp.down_proj"):
            unit.owner.weight.data.add_(0.1)

    monkeypatch.setattr(Lockstep, "_merge", nudge)
    assert stream_into(tmp_path / "streamed", base_of("llama"), tmp_path / "adapter").largest_difference > 1e-2


@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.layers.0.input_layernorm.weight"])
def test_values_that_float16_cannot_hold_are_not_written(tmp_path, name):
    base = write_base(tmp_path, "llama")
    stored = load_file(base.path / "model.safetensors")
    stored[name].view(-1)[3] = 70_000.0
    save_file(stored, base.path / "model.safetensors", metadata={"format": "pt"})
    write_adapter(tmp_path, base)
    with pytest.raises(RunError, match=f"`{name}` has values that are too large for float16 .*`--dtype bfloat16`"):
        stream_into(tmp_path / "streamed", base, tmp_path / "adapter", "float16")
    assert not list((tmp_path / "streamed").glob("*.safetensors"))


def test_values_that_are_not_finite_are_not_written(base_of, tmp_path):
    write_adapter(tmp_path, base_of("llama"))
    file = tmp_path / "adapter" / WEIGHTS
    saved = load_file(file)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    save_file({**saved, name: saved[name] * float("inf")}, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"`model.layers.1.mlp.down_proj.weight` values that are not finite"):
        stream_into(tmp_path / "streamed", base_of("llama"), tmp_path / "adapter")
