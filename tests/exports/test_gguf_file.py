"""Tiny models of every family as GGUF files: transformers reads them back as the models they were."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

import architectures
import gguf
import torch
import transformers
from architectures import CAUSAL, write_architecture
from safetensors.torch import load_file, save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lora_ns.answers.gguf_model import configuration, needs_configuration
from lora_ns.errors import ModelError, RunError, UsageError
from lora_ns.exports.gguf_file import TYPES, Model, differing_setting, write_model
from lora_ns.exports.gguf_settings import frequencies_of, notes_of, settings_of
from lora_ns.exports.gguf_tokens import vocabulary_of
from lora_ns.model.files import Base
from lora_ns.model.gguf import read_gguf
from lora_ns.model.load import Loading, load_base
from lora_ns.model.tokenizer import load_tokenizer

LOADING = Loading("CAUSAL_LM", "float32", "cpu")
ROUNDING = {"f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 1 / 250}
"""Largest change of a value by each type, relative to the largest value of its tensor."""
THETA = {"rope_theta": 5e5}
LLAMA3 = {
    **THETA,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FORMS = {
    "llama": {},
    "mistral": {"rope_parameters": {**THETA, "rope_type": "default"}},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "llama, wide heads": {"head_dim": 16},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, llama3": {"rope_parameters": LLAMA3},
    "llama, linear": {"rope_parameters": {**THETA, "rope_type": "linear", "factor": 2.0}},
    "qwen2, yarn": {
        "rope_parameters": {
            **THETA,
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 40,
            "beta_fast": 16.0,
        }
    },
}


def write_form(folder, form, monkeypatch):
    family = form.partition(",")[0]
    shape = CAUSAL[family]
    monkeypatch.setitem(architectures.ALL, family, replace(shape, sizes={**shape.sizes, **FORMS[form]}))
    write_architecture(folder, family)
    tensors = load_file(folder / "base/model.safetensors")
    torch.manual_seed(0)
    for name, value in tensors.items():  # biases and norms are zeros and ones otherwise
        tensors[name] = value + torch.randn_like(value) * (0.1 if value.ndim == 1 else 0.2)
    save_file(tensors, folder / "base/model.safetensors", metadata={"format": "pt"})
    return folder / "base"


def write_file(file, source, kind="f32"):
    config = configuration(Base("base", source))
    vocabulary = vocabulary_of(load_tokenizer(source), config["vocab_size"], [config["eos_token_id"]])
    write_model(file, source, Model("tiny", config, vocabulary), kind)
    return config


def read_as(file, config):
    if needs_configuration(read_gguf(file), config):
        (file.parent / "config.json").write_text(json.dumps(config))
    return Base("out", file.parent, gguf_file=file.name)


def logits(base):
    with torch.no_grad():
        return load_base(base, LOADING).eval()(torch.arange(1, 60)[None]).logits


@pytest.mark.parametrize("form", FORMS)
def test_a_model_is_read_back(tmp_path, form, monkeypatch):
    source = write_form(tmp_path, form, monkeypatch)
    (tmp_path / "out").mkdir()
    config = write_file(tmp_path / "out/model.gguf", source)
    reader = gguf.GGUFReader(tmp_path / "out/model.gguf")
    assert differing_setting(reader, config) == ""
    found, expected = logits(read_as(tmp_path / "out/model.gguf", config)), logits(Base("base", source))
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_rounds_the_matrices_and_not_the_vectors(tmp_path, kind, monkeypatch):
    source = write_form(tmp_path, "llama, biases", monkeypatch)
    write_file(tmp_path / "exact.gguf", source)
    write_file(tmp_path / "model.gguf", source, kind)
    exact, found = (gguf.GGUFReader(tmp_path / name).tensors for name in ("exact.gguf", "model.gguf"))
    for one, other in zip(exact, found, strict=True):
        assert (one.name, other.tensor_type.name) == (other.name, "F32" if len(one.shape) == 1 else kind.upper())
        change = abs(gguf.dequantize(other.data, other.tensor_type) - one.data).max() / abs(one.data).max()
        assert change <= (ROUNDING[kind] if len(one.shape) == 2 else 0)


def test_rows_that_do_not_divide_into_blocks_are_kept_in_float16(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMS, "llama, narrow", {"intermediate_size": 48})
    source = write_form(tmp_path, "llama, narrow", monkeypatch)
    write_file(tmp_path / "model.gguf", source, "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_positions_are_scaled_as_transformers_scales_them():
    config = transformers.LlamaConfig(**architectures.GROUPED, head_dim=32, rope_parameters=LLAMA3)
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    width = 32
    bare = 1 / LLAMA3["rope_theta"] ** (torch.arange(0, width, 2) / width)
    found = frequencies_of(config.to_dict())
    assert len(set(found.round(4))) > 2, "short, long and waves between"
    assert torch.allclose(bare / torch.from_numpy(found), expected)


def test_what_float16_does_not_hold_is_refused(tmp_path, monkeypatch):
    source = write_form(tmp_path, "llama", monkeypatch)
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = 70_000
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"`model.layers.1.mlp.up_proj.weight` has values beyond those of float16"):
        write_file(tmp_path / "model.gguf", source, "f16")
    write_file(tmp_path / "model.gguf", source, "bf16")


def test_a_tensor_without_a_place_is_refused(tmp_path, monkeypatch):
    source = write_form(tmp_path, "llama", monkeypatch)
    tensors = {**load_file(source / "model.safetensors"), "model.extra.weight": torch.ones(2)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"`model.extra.weight` has no place in llama.cpp's architecture `llama`"):
        write_file(tmp_path / "model.gguf", source)


@pytest.mark.parametrize(
    "changed", [{"hidden_act": "gelu"}, {"rope_parameters": {**THETA, "rope_type": "dynamic", "factor": 2.0}}]
)
def test_settings_that_llama_cpp_does_not_have_are_refused(changed):
    config = {**transformers.LlamaConfig(**architectures.GROUPED).to_dict(), **changed}
    with pytest.raises(
        UsageError, match=r"llama.cpp computes this family without `(hidden_act` gelu|rope_type` dynamic)"
    ):
        settings_of(config)


def test_a_window_that_llama_cpp_does_not_have_is_noted():
    windowed = transformers.MistralConfig(**architectures.GROUPED, sliding_window=64).to_dict()
    assert notes_of(windowed) == ("llama.cpp attends to all tokens of this family, and the model to the last 64",)
    assert notes_of({**windowed, "sliding_window": None}) == ()
    assert notes_of(transformers.Qwen2Config(**architectures.GROUPED).to_dict()) == ()
