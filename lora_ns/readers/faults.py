"""Faults of an adapter folder itself, whoever reads it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from lora_ns.readers.adapter import Adapter, Layer
from lora_ns.readers.base import Finding, counted

_AGAIN = "save the adapter again, or copy it again"


def faults(adapter: Adapter) -> Iterator[Finding]:
    """Yield the faults of an adapter: of its tensors' names and shapes, then of their values."""
    if not adapter.tensors:
        yield Finding("wrong", adapter.weights_file.name, "has no tensors: the adapter does nothing", _AGAIN)
        return
    if adapter.is_lora:
        yield from _structure(adapter)
    if importlib.util.find_spec("numpy") is None:
        yield Finding("right", "", "values not checked: numpy is not installed", "`pip install numpy`")
        return
    yield from _values(adapter)


def _structure(adapter: Adapter) -> Iterator[Finding]:
    """Yield factors without their partner, ranks that differ from the configuration, and tensors without a purpose."""
    halves = [layer for layer in adapter.layers if layer.a is None or layer.b is None]
    if halves:
        first, missing = halves[0], "lora_B" if halves[0].b is None else "lora_A"
        what = f"`{first.module}` has no {missing}{_and_more(halves)}"
        yield Finding("wrong", first.module, what, _AGAIN)
    unfit = [layer for layer in adapter.layers if layer.a and layer.b and layer.rank is None]
    if unfit:
        what = f"the two factors of `{unfit[0].module}` have different ranks{_and_more(unfit)}"
        yield Finding("wrong", unfit[0].module, what, _AGAIN)
    other = [layer for layer in adapter.layers if layer.rank not in (None, layer.configured_rank)]
    if other:
        one = other[0]
        what = f"`{one.module}` has rank {one.rank}, and {one.configured_rank} by the configuration{_and_more(other)}"
        yield Finding("wrong", one.module, what, "write the rank of the tensors into adapter_config.json")
    whole = tuple(map(str, adapter.config.get("modules_to_save") or ()))
    strays = [key for key in adapter.of_kind("other") if not any(f".{name}." in f".{key}" for name in whole)]
    if strays:
        what = counted(f"`{strays[0]}` is no part of a LoRA adapter and not in `modules_to_save`", strays)
        yield Finding("wrong", strays[0], what, "remove it, or restore the configuration that it belongs to")


def _and_more(layers: list[Layer]) -> str:
    return f", and {len(layers) - 1} more" if len(layers) > 1 else ""


def _values(adapter: Adapter) -> Iterator[Finding]:
    """Yield values that are not finite, and factors that are zero."""
    import numpy as np

    broken, empty = [], set()
    for key, entry in adapter.tensors.items():
        if not entry["dtype"].startswith(("F", "BF")):
            continue
        values = adapter.values(key)
        if count := int(values.size - np.isfinite(values).sum()):
            broken.append((key, count))
        if not values.any():
            empty.add(key)
    if broken:
        key, count = broken[0]
        more = f", and {len(broken) - 1} more tensors have some" if len(broken) > 1 else ""
        what = f"{count:,} values of `{key}` are NaN or infinite{more}: the model's answers will be, too"
        yield Finding("wrong", key, what, "take an earlier checkpoint")
    pairs = [layer for layer in adapter.layers if layer.a and layer.b]
    without = [layer for layer in pairs if layer.b in empty or layer.a in empty]
    if without and len(without) == len(pairs):
        what = f"a factor is zero in all {len(pairs)} layers: the adapter does nothing"
        yield Finding("wrong", without[0].module, what, "train it, or take a later checkpoint")
    elif without:
        what = f"a factor is zero in {len(without)} of {len(pairs)} layers, such as `{without[0].module}`"
        yield Finding("right", without[0].module, what)
