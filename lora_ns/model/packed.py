"""Packed tensors as the weights that they represent: shapes only, by the packers' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lora_ns.files.safetensors import Tensors
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.quantizers.base import DTYPES

_PACKERS = {kind.quant_method: kind for kind in QUANTIZATIONS.values() if kind.packed_weight}


def as_whole(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Mapping[str, Any]]:
    """Return the tensors of a base as they are without the quantisation in its settings."""
    settings: Mapping[str, Any] = config.get("quantization_config") or {}
    kind = settings.get("quant_method")
    if kind not in _PACKERS:
        return dict(tensors)
    packer = _PACKERS[kind]
    dtype = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "F16")
    whole: dict[str, Mapping[str, Any]] = {}
    for name, entry in tensors.items():
        if name.endswith(packer.packed_weight):
            shape = packer.plain_shape(list(entry["shape"]), int(settings.get("bits") or 4))
            whole[name.removesuffix(packer.packed_weight) + ".weight"] = {**entry, "shape": shape, "dtype": dtype}
        elif not name.endswith(packer.packed_beside):
            whole[name] = entry
    return whole
