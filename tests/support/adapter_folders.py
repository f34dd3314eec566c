"""Adapter folders, written without PEFT: a configuration, and tensors in any dtype under any names."""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SHAPES = {"self_attn.q_proj": (24, 16), "mlp.down_proj": (16, 32)}
"""Outputs and inputs of the layers of each block."""

CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "owner/base",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "down_proj"],
    "bias": "none",
    "init_lora_weights": True,
}
PREFIX = "base_model.model."


def factors(rank: int = 4, blocks: int = 2, seed: int = 0, ranks: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The factors of a LoRA adapter by PEFT's names, with random values; `ranks` are those of single layers."""
    import numpy as np

    drawn = np.random.default_rng(seed)
    tensors = {}
    for block in range(blocks):
        for layer, (outputs, inputs) in SHAPES.items():
            own = (ranks or {}).get(layer.rpartition(".")[2], rank)
            name = f"{PREFIX}model.layers.{block}.{layer}"
            tensors[f"{name}.lora_A.weight"] = drawn.normal(size=(own, inputs)).astype("f4")
            tensors[f"{name}.lora_B.weight"] = drawn.normal(size=(outputs, own)).astype("f4")
    return tensors


def write_adapter(
    folder: Path,
    tensors: Mapping[str, Any] | None = None,
    rename: Callable[[str], str] = str,
    dtype: str = "F32",
    **config: Any,
) -> Path:
    """Write an adapter folder; `config` are fields that differ from `CONFIG`, None removes one."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    write_tensors(folder / "adapter_model.safetensors", factors() if tensors is None else tensors, rename, dtype)
    return folder


def write_tensors(
    file: Path, tensors: Mapping[str, Any], rename: Callable[[str], str] = str, dtype: str = "F32"
) -> None:
    """Write a safetensors file."""
    header, parts, end = {}, [], 0
    for key, values in tensors.items():
        data = _encoded(values, dtype)
        header[rename(key)] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [end, end + len(data)]}
        assert len(data) == math.prod(values.shape) * {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}[dtype]
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def _encoded(values: Any, dtype: str) -> bytes:
    if dtype == "BF16":  # the upper half of float32, rounded to the nearest even
        bits = values.astype("<f4").view("<u4").astype("u8")
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]).tobytes()
