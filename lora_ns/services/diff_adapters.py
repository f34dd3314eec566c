"""Two adapter folders, compared: their configurations, their layers, and the updates that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.readers import Adapter, Layer, read_adapter
from lora_ns.readers.updates import factors_of
from lora_ns.services.inspect_adapter import tensor_group


@dataclass(frozen=True)
class FieldDifference:
    """A field of the configurations that differs; a value is None if the field is absent."""

    field: str
    first: Any
    second: Any


@dataclass(frozen=True)
class GroupDifference:
    """How far the updates of a kind of layer differ; for other methods than LoRA, the tensors of a kind."""

    kind: str
    layers: int
    difference: float | None
    """Norm of the difference, as a part of the norm of the first; None if the first is zero or shapes differ."""
    cosine: float | None
    """Cosine of the angle between them, 1 if they point in the same direction; None if one is zero."""
    is_equal: bool


@dataclass(frozen=True)
class AdapterDiff:
    """The comparison of two adapters."""

    first: str
    second: str
    config: tuple[FieldDifference, ...]
    only_first: tuple[str, ...]
    """Layers or tensors that only the first has."""
    only_second: tuple[str, ...]
    groups: tuple[GroupDifference, ...]
    difference: float | None
    """Difference of all shared updates together."""
    cosine: float | None
    is_equal: bool
    """True if configurations and weights are the same."""


def diff_adapters(first: Path, second: Path) -> AdapterDiff:
    """Compare two adapter folders. Raises `UsageError` and `ModelError` as `read_adapter` does."""
    one, other = read_adapter(first), read_adapter(second)
    config = tuple(_fields(one.config, other.config))
    by_updates = one.is_lora and other.is_lora
    mine, theirs = (_units(adapter, by_updates) for adapter in (one, other))
    groups: dict[str, list[_Compared]] = {}
    for name in mine.keys() & theirs.keys():
        unit = mine[name]
        kind = unit.kind if isinstance(unit, Layer) else tensor_group(name)
        groups.setdefault(kind, []).append(_compare(one, other, unit, theirs[name]))
    found = tuple(_group(kind, groups[kind]) for kind in sorted(groups))
    everything = _group("", [part for parts in groups.values() for part in parts])
    only = tuple(sorted(mine.keys() - theirs.keys())), tuple(sorted(theirs.keys() - mine.keys()))
    is_equal = not config and not any(only) and everything.is_equal
    return AdapterDiff(
        str(one.folder), str(other.folder), config, *only, found, everything.difference, everything.cosine, is_equal
    )


def _fields(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[FieldDifference]:
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        if _unordered(one) != _unordered(other):
            yield FieldDifference(name, one, other)


def _unordered(value: Any) -> Any:
    """Sort a list of names, such as `target_modules`, which PEFT keeps as a set."""
    is_names = isinstance(value, list) and all(isinstance(part, str) for part in value)
    return sorted(value) if is_names else value


def _units(adapter: Adapter, by_updates: bool) -> dict[str, Layer | str]:
    """Return what is compared, by name: layers with both factors, and every other tensor."""
    if not by_updates:
        return {key: key for key in adapter.tensors}
    whole = {layer.module: layer for layer in adapter.layers if layer.rank is not None}
    used = {key for layer in whole.values() for key in (layer.a, layer.b)}
    return {**whole, **{key: key for key in adapter.tensors if key not in used}}


@dataclass(frozen=True)
class _Compared:
    """Squares of the norms, and the inner product; `difference` is None if the shapes differ."""

    first: float
    second: float
    product: float
    difference: float | None
    is_equal: bool


def _compare(one: Adapter, other: Adapter, mine: Layer | str, theirs: Layer | str) -> _Compared:
    if isinstance(mine, Layer) and isinstance(theirs, Layer):
        first, second = factors_of(one, mine), factors_of(other, theirs)
        norms = first.norm() ** 2, second.norm() ** 2
        if first.shapes != second.shapes:
            return _Compared(*norms, 0.0, None, False)
        if first.equals(second):
            return _Compared(*norms, norms[0], 0.0, True)
        return _Compared(*norms, first.product(second), first.minus(second).norm() ** 2, False)
    return _compare_values(one.values(str(mine)), other.values(str(theirs)))


def _compare_values(left: Any, right: Any) -> _Compared:
    import numpy as np

    with np.errstate(all="ignore"):  # of values that are not finite, neither are the figures
        norms = float((left**2).sum()), float((right**2).sum())
        if left.shape != right.shape:
            return _Compared(*norms, 0.0, None, False)
        product, difference = float((left * right).sum()), float(((left - right) ** 2).sum())
        return _Compared(*norms, product, difference, np.array_equal(left, right))


def _group(kind: str, parts: list[_Compared]) -> GroupDifference:
    first, second, product = (
        sum(getattr(part, name) for part in parts) for name in ("first", "second", "product")
    )  # fmt: skip
    differences = [part.difference for part in parts]
    total = sum(part for part in differences if part is not None)
    is_known = None not in differences and first > 0
    return GroupDifference(
        kind=kind,
        layers=len(parts),
        difference=math.sqrt(total / first) if is_known else None,
        cosine=product / math.sqrt(first * second) if first > 0 and second > 0 and None not in differences else None,
        is_equal=all(part.is_equal for part in parts),
    )
