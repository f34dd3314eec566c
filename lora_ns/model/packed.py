"""Tensors that are stored packed, as the weights that they stand for: shapes alone, by the packers' own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Tensors = Mapping[str, Mapping[str, Any]]
"""Type and shape of stored tensors, as the header of a safetensors file has them."""


_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


_WORD_BITS = 32
"""GPTQ and AWQ pack weights into 32-bit integers."""


_SCALES = {
    "torchao": ("._weight_scale", "._weight_zero_point"),
    "gptq": (".qzeros", ".scales", ".g_idx"),
    "awq": (".qzeros", ".scales"),
}


_WEIGHTS = {"torchao": "._weight_qdata", "gptq": ".qweight", "awq": ".qweight"}


def as_whole(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Mapping[str, Any]]:
    """The tensors of a base as they are without the quantisation that its settings name."""
    settings: Mapping[str, Any] = config.get("quantization_config") or {}
    kind = settings.get("quant_method")
    if kind not in _WEIGHTS:
        return dict(tensors)
    dtype = _DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")), "F16")
    ending, shape_of = _WEIGHTS[kind], _SHAPES[kind]
    whole: dict[str, Mapping[str, Any]] = {}
    for name, entry in tensors.items():
        if name.endswith(ending):
            shape = shape_of(list(entry["shape"]), int(settings.get("bits") or 4))
            whole[name.removesuffix(ending) + ".weight"] = {**entry, "shape": shape, "dtype": dtype}
        elif not name.endswith(_SCALES[kind]):
            whole[name] = entry
    return whole


def _torchao(shape: list[int], _bits: int) -> list[int]:
    return shape


def _gptq(shape: list[int], bits: int) -> list[int]:
    """GPTQ packs columns of the transposed weight."""
    rows, outputs = shape
    return [outputs, rows * _WORD_BITS // bits]


def _awq(shape: list[int], bits: int) -> list[int]:
    """AWQ packs rows of the transposed weight."""
    inputs, columns = shape
    return [columns * _WORD_BITS // bits, inputs]


_SHAPES: Mapping[str, Callable[[list[int], int], list[int]]] = {"torchao": _torchao, "gptq": _gptq, "awq": _awq}
