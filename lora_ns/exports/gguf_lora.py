"""A plain LoRA as a GGUF file, which llama.cpp adds to a GGUF file of the base (`--lora`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, UsageError
from lora_ns.exports.factors import Factors
from lora_ns.exports.gguf_file import permuted, tensor_names
from lora_ns.exports.gguf_settings import FAMILIES, family_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_REMEDY = "export the whole model instead: `--to gguf`"


def check_family(config: Mapping[str, Any]) -> None:
    """Check that lorans writes adapters of a family. Raises `UsageError`."""
    if family_of(config) is None:
        what = f"the adapter is of the family `{config.get('model_type')}`, and lorans writes {', '.join(FAMILIES)}"
        raise UsageError(Problem("", what, "export it as a plain LoRA, and use llama.cpp's convert_lora_to_gguf.py"))


def write_adapter(file: Path, name: str, updates: Mapping[str, Factors], config: Mapping[str, Any]) -> None:
    """Write updates of one rank in float32, with an alpha of that rank.

    Args:
        file: the file to write.
        name: name of the adapter.
        updates: the updates by transformers' name of the layer.
        config: the configuration of the base.

    Raises:
        UsageError: if llama.cpp has no place for the update of a layer.
    """
    import gguf

    family = family_of(config)
    assert family is not None, "the caller has checked it"
    (rank,) = {factors.rank for factors in updates.values()}
    writer = gguf.GGUFWriter(file, family.arch)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        for layer, factors in updates.items():
            ours = tensor_names(family, config)(f"{layer}.weight")
            is_tied = layer == "lm_head" and config.get("tie_word_embeddings")
            if ours is None or factors.kind != "linear" or is_tied:
                raise UsageError(Problem("", f"llama.cpp adds no LoRA to `{layer}` of this model", _REMEDY))
            up = factors.up.numpy()
            writer.add_tensor(f"{ours}.lora_a", factors.down.contiguous().numpy())
            writer.add_tensor(f"{ours}.lora_b", permuted(ours, up, config).copy() if family.permutes else up.copy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def add_adapter(model: nn.Module, file: Path, config: Mapping[str, Any]) -> int:
    """Add the update in a file to the weights of a model, as llama.cpp does. Return the number of layers."""
    import gguf
    import torch

    family = family_of(config)
    assert family is not None, "the caller has checked it"
    reader = gguf.GGUFReader(file)
    alpha = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    names, found = tensor_names(family, config), 0
    with torch.no_grad():
        for layer, module in model.named_modules():
            ours = names(f"{layer}.weight")
            if ours is None or f"{ours}.lora_a" not in tensors:
                continue
            down, up = (tensors.pop(f"{ours}.lora_{part}") for part in "ab")
            scale = (float(alpha.contents()) if alpha else 0.0) / down.shape[0]
            up = _halves(ours, up, config) if family.permutes else up
            module.weight += (up @ down * scale).to(module.weight)
            found += 1
    if tensors:
        raise UsageError(Problem(str(file), f"`{min(tensors)}` belongs to no layer of the base", "export it again"))
    return found


def _halves(name: str, value: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Return rows in llama.cpp's order of queries and keys in that of transformers; others as they are."""
    import torch

    order = permuted(name, torch.arange(value.shape[0]), config)
    back = torch.empty_like(value)
    back[order] = value
    return back
