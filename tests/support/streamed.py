"""Trained adapters without a training, and their merge by PEFT and transformers alone."""

from dataclasses import replace
from pathlib import Path

import matrix
import peft
import torch
import transformers
from architectures import ALL, write_architecture
from safetensors.torch import load_file
from trap_runs import chat, write_rows

from lora_ns.machine.libraries import Noise
from lora_ns.merging.stream import Merged, Merging, stream
from lora_ns.methods import METHODS
from lora_ns.model.adapter import add_adapter, save_adapter
from lora_ns.model.files import Base, find_base
from lora_ns.model.load import Loading, load_base, never_quantised
from lora_ns.model.saved_adapter import load_adapter
from lora_ns.model.tokenizer import load_tokenizer
from lora_ns.quantizers import Quantization
from lora_ns.recipe.load import load_recipe

TEXT = "The quick brown fox"
"""The text on which models are compared."""


def loading_of(base: Base, dtype: str = "float32") -> Loading:
    """The arguments for loading a base of text."""
    found = next((family.attention for name, family in ALL.items() if name == base.name), "sdpa")
    return Loading(task_type="CAUSAL_LM", dtype=dtype, device="cpu", attn_implementation=found)


def write_adapter(folder: Path, base: Base, *overrides: str) -> None:
    """Write the adapter of a recipe as training would leave it: every trained value is random."""
    write_rows(folder, [chat("plum", "falls")])
    (folder / "recipe.toml").write_text(matrix.RECIPES["CAUSAL_LM"])
    method = load_recipe(folder / "recipe.toml", overrides).recipe.peft
    transformers.set_seed(3)
    with Noise():
        adapted = add_adapter(load_base(base, loading_of(base)), method, "CAUSAL_LM", base)
    with torch.no_grad():
        for value in adapted.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value), alpha=0.02)
    save_adapter(adapted, load_tokenizer(base.path), {}, folder / "adapter")


def stream_into(
    folder: Path,
    base: Base,
    adapter: Path,
    dtype: str = "float32",
    largest_shard: int = 10**9,
    quantization: Quantization | None = None,
) -> Merged:
    """Merge module by module into a folder, which is created."""
    kind = peft.PeftConfig.from_pretrained(adapter).__class__.__name__
    method = next(method for method in METHODS.values() if method.config_class == kind)
    hidden = method.capabilities.hidden_tensors
    loading, generation = loading_of(base), transformers.GenerationConfig()
    if quantization is not None:
        loading = replace(loading, quantization=quantization)
    what = Merging(
        base=base,
        loading=loading,
        adapter=adapter,
        output=folder,
        dtype=dtype,
        generation=generation,
        largest_shard=largest_shard,
        in_float32=hidden,
    )
    folder.mkdir()
    with Noise():
        return stream(what, load_tokenizer(base.path), TEXT, folder)


def merge_whole(base: Base, adapter: Path, output: Path, dtype: str = "float32") -> None:
    """Merge without lorans."""
    with Noise():
        model = transformers.AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
        model = peft.PeftModel.from_pretrained(model, adapter).float()
        merged = model.merge_and_unload(safe_merge=True).to(getattr(torch, dtype))
        merged.save_pretrained(output)


def merge_dequantised(base: Base, adapter: Path, output: Path, quantization: Quantization) -> None:
    """Merge into a base that transformers quantises and dequantises as a whole."""
    with Noise():
        model = quantization.in_full(load_quantised(base, quantization))
        merged = load_adapter(model, adapter).float().merge_and_unload(safe_merge=True)
        never_quantised(merged).save_pretrained(output)


def load_quantised(base: Base, quantization: Quantization) -> transformers.PreTrainedModel:
    """Load a base as transformers quantises it."""
    with Noise():
        return load_base(base, replace(loading_of(base), quantization=quantization))


def store_quantised(base: Base, quantization: Quantization, folder: Path) -> Base:
    """Write a base as transformers stores it quantised."""
    load_quantised(base, quantization).save_pretrained(folder)
    load_tokenizer(base.path).save_pretrained(folder)
    found = find_base(str(folder), "main", [folder], download=False)
    assert found is not None
    return replace(found, name=base.name)


def logits_of(model: transformers.PreTrainedModel, base: Base, rows: int, adapter: Path | None = None) -> torch.Tensor:
    """The logits of a model, with its adapter if there is one, where a merge compares so many models."""
    ids = load_tokenizer(base.path)(TEXT, return_tensors="pt").input_ids
    ids = ids if ids.shape[1] % rows else ids[:, :-1]
    with Noise(), torch.no_grad():
        return (model if adapter is None else load_adapter(model, adapter)).eval()(ids).logits[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor in the safetensors files of a folder."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        loaded = load_file(file)
        assert not found.keys() & loaded.keys()
        found |= loaded
    return found


def differences(folder: Path, other: Path) -> list[str]:
    """Names of tensors that are not the same bit for bit in two folders."""
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    return [
        name
        for name, value in theirs.items()
        if ours[name].dtype != value.dtype or ours[name].shape != value.shape or not torch.equal(ours[name], value)
    ]


def write_base(folder: Path, name: str) -> Base:
    """Write a tiny base of a family, or find the embedded one."""
    if name != "nano":
        write_architecture(folder, name)
    place = "lorans:nano" if name == "nano" else str(folder / "base")
    found = find_base(place, "main", [folder], download=False)
    assert found is not None
    return replace(found, name=name)
