"""A model that is read layer by layer answers as the whole one, and takes the memory of a layer."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from peak_memory import benchmark, measure
from safetensors.torch import load_file, save_file
from streamed import TEXT, loading_of, store_quantised, write_adapter, write_base

from lora_ns.machine.libraries import Noise
from lora_ns.merging.by_layer import load_by_layer
from lora_ns.merging.refusal import WholeModelError
from lora_ns.model.files import find_base
from lora_ns.model.load import computing, difference, load_base
from lora_ns.model.saved_adapter import load_adapter
from lora_ns.model.tokenizer import load_tokenizer
from lora_ns.quantizers import QUANTIZATIONS

BASES = ("nano", "mixtral", "gpt2")


def logits(model, base, dtype):
    ids = load_tokenizer(base.path)(TEXT, return_tensors="pt").input_ids
    with Noise(), torch.no_grad(), computing("cpu", dtype):
        return model.eval()(ids).logits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BASES)
def test_it_answers_as_the_whole_model_does_to_the_last_bit(tmp_path, name, dtype):
    base = write_base(tmp_path, name)
    write_adapter(tmp_path, base)
    loading = loading_of(base, dtype)
    for adapter in (None, tmp_path / "adapter"):
        with Noise():
            whole = load_base(base, loading)
            whole = whole if adapter is None else load_adapter(whole, adapter)
            model = load_by_layer(base, loading, adapter)
        for _ in range(2):  # it is read again for each pass
            assert torch.equal(logits(model, base, dtype), logits(whole, base, dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_base_in_four_bits_answers_as_bitsandbytes_computes_it(tmp_path, is_stored, dtype):
    pytest.importorskip("bitsandbytes")
    base, quantization = write_base(tmp_path, "nano"), QUANTIZATIONS["bnb-4bit"](method="bnb-4bit")
    write_adapter(tmp_path, base)
    if is_stored:
        base = store_quantised(base, quantization, tmp_path / "stored")
    loading = replace(loading_of(base, dtype), quantization=quantization)
    for adapter in (None, tmp_path / "adapter"):
        with Noise():
            whole = load_base(base, loading)
            whole = whole if adapter is None else load_adapter(whole, adapter)
            model = load_by_layer(base, loading, adapter)
        found, expected = (logits(one, base, dtype) for one in (model, whole))
        assert difference(expected, found) < (1e-5 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_base_in_eight_bits_is_not_read_by_layer(tmp_path, is_stored):
    pytest.importorskip("bitsandbytes")
    base, quantization = write_base(tmp_path, "nano"), QUANTIZATIONS["bnb-8bit"](method="bnb-8bit")
    if is_stored:
        base = store_quantised(base, quantization, tmp_path / "stored")
    with pytest.raises(WholeModelError, match="round their inputs"):
        load_by_layer(base, replace(loading_of(base), quantization=quantization))


def test_buffers_that_are_stored_are_read(tmp_path, monkeypatch):
    """Such as the corrections of DeepSeek's router."""
    base = write_base(tmp_path, "llama")
    layer = type(load_base(base, loading_of(base)).model.layers[0])
    create, forward = layer.__init__, layer.forward

    def with_buffer(self, *arguments):
        create(self, *arguments)
        self.register_buffer("correction", torch.zeros(1))

    monkeypatch.setattr(layer, "__init__", with_buffer)
    monkeypatch.setattr(
        layer, "forward", lambda self, *given, **named: forward(self, *given, **named) + self.correction
    )
    stored = load_file(base.path / "model.safetensors")
    stored |= {f"model.layers.{number}.correction": torch.tensor([0.5 + number]) for number in range(2)}
    save_file(stored, base.path / "model.safetensors", metadata={"format": "pt"})
    base = find_base(str(base.path), "main", [], download=False)
    with Noise():
        models = load_by_layer(base, loading_of(base)), load_base(base, loading_of(base))
    assert torch.equal(*(logits(model, base, "float32") for model in models))


def test_an_adapter_that_is_computed_from_the_weights_needs_all_of_them(tmp_path):
    base = write_base(tmp_path, "llama")
    write_adapter(tmp_path, base, 'peft.init_lora_weights="mica"')
    with Noise(), pytest.raises(WholeModelError, match="from the weights of the base"):
        load_by_layer(base, loading_of(base), tmp_path / "adapter")


@pytest.mark.matrix
def test_a_merge_over_four_bits_takes_the_memory_of_modules(tmp_path):
    pytest.importorskip("bitsandbytes")
    large = benchmark()
    large.write_base(tmp_path / "base", 0.8)
    large.write_adapter(tmp_path / "base", tmp_path / "adapter")
    large.store_quantised(tmp_path / "base", tmp_path / "stored")
    ways = ("merge", "merge over nf4", "merge over stored nf4")
    plain, at_once, stored = (measure(way, tmp_path).bytes for way in ways)
    module = 4 * 2048 * 5632
    assert at_once < plain + 2 * module
    assert stored < plain + 2 * module
    assert at_once < 400 * 10**6


@pytest.mark.matrix
def test_one_layer_at_a_time_is_in_memory(tmp_path):
    large = benchmark()
    large.write_base(tmp_path / "base", 0.8)
    large.write_adapter(tmp_path / "base", tmp_path / "adapter")
    whole, layered = (measure(way, tmp_path) for way in ("whole", "by layer"))
    model = sum(file.stat().st_size for file in (tmp_path / "base").glob("*.safetensors"))
    embeddings = 2 * 32_000 * 2048
    assert layered.found == whole.found
    assert whole.bytes > 0.9 * model
    assert layered.bytes < embeddings + 200 * 10**6 < model / 2
