"""The facts about an adapter folder: method, scale, size, and how large its updates are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_ns.model.files import TOKENIZER_FILES
from lora_ns.readers import Adapter, kind_of, read_adapter
from lora_ns.readers.updates import factors_of


@dataclass(frozen=True)
class LayerGroup:
    """Layers of a kind with the same rank and scale; for other methods than LoRA, tensors of a kind."""

    kind: str
    layers: int
    rank: int | None
    scale: float | None
    parameters: int
    norm: float
    """Frobenius norm of all its updates scale * B @ A together; for other methods, of the tensors."""
    largest: float
    """Norm of the largest update or tensor."""


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter folder in figures."""

    adapter: str
    run: str | None
    """Run directory that it belongs to."""
    peft_type: str
    peft_version: str | None
    task_type: str | None
    base: str | None
    revision: str | None
    r: int | None
    lora_alpha: float | None
    use_rslora: bool
    use_dora: bool
    initialisation: str
    """Value of `init_lora_weights`; empty for PEFT's default."""
    groups: tuple[LayerGroup, ...]
    norm: float
    """Norm of all groups together."""
    parameters: int
    dtypes: dict[str, int]
    """Parameters by dtype."""
    size: int
    """Bytes of all files in the folder."""
    modules_to_save: tuple[str, ...]
    other_tensors: int
    """Tensors of a LoRA adapter that are no factors."""
    tokenizer_files: tuple[str, ...]
    has_chat_template: bool


def inspect_adapter(folder: Path) -> AdapterFacts:
    """Collect the facts about an adapter folder. Raises `UsageError` and `ModelError` as `read_adapter` does."""
    adapter = read_adapter(folder)
    config = adapter.config
    groups = tuple(_updates(adapter) if adapter.is_lora else _tensors(adapter))
    counts = {key: math.prod(entry["shape"]) for key, entry in adapter.tensors.items()}
    dtypes: Counter[str] = Counter()
    for key, entry in adapter.tensors.items():
        dtypes[entry["dtype"]] += counts[key]
    factors = {key for layer in adapter.layers for key in (layer.a, layer.b)}
    init = config.get("init_lora_weights")
    return AdapterFacts(
        adapter=str(adapter.folder),
        run=None if adapter.run is None else str(adapter.run),
        peft_type=adapter.peft_type,
        peft_version=_text(config.get("peft_version")),
        task_type=_text(config.get("task_type")),
        base=_text(config.get("base_model_name_or_path")),
        revision=_text(config.get("revision")),
        r=adapter.r if adapter.is_lora else config.get("r"),
        lora_alpha=adapter.lora_alpha if adapter.is_lora else config.get("lora_alpha"),
        use_rslora=bool(config.get("use_rslora")),
        use_dora=bool(config.get("use_dora")),
        initialisation=init if isinstance(init, str) else "",
        groups=groups,
        norm=math.hypot(*(group.norm for group in groups)),
        parameters=sum(counts.values()),
        dtypes=dict(dtypes),
        size=sum(file.stat().st_size for file in adapter.folder.iterdir() if file.is_file()),
        modules_to_save=tuple(map(str, config.get("modules_to_save") or ())),
        other_tensors=len(adapter.tensors.keys() - factors) if adapter.is_lora else 0,
        tokenizer_files=tuple(name for name in sorted(TOKENIZER_FILES) if (adapter.folder / name).is_file()),
        has_chat_template=(adapter.folder / "chat_template.jinja").is_file(),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _updates(adapter: Adapter) -> Iterator[LayerGroup]:
    """Yield the groups of a LoRA adapter."""
    groups: dict[tuple[str, int | None, float], list[tuple[int, float]]] = {}
    for layer in adapter.layers:
        keys = [key for key in (layer.a, layer.b) if key is not None]
        count = sum(math.prod(adapter.tensors[key]["shape"]) for key in keys)
        norm = 0.0 if layer.rank is None else factors_of(adapter, layer).norm()
        groups.setdefault((layer.kind, layer.rank, layer.scale), []).append((count, norm))
    for (kind, rank, scale), found in groups.items():
        norms = [norm for _, norm in found]
        count = sum(count for count, _ in found)
        yield LayerGroup(kind, len(found), rank, scale, count, math.hypot(*norms), max(norms))


def _tensors(adapter: Adapter) -> Iterator[LayerGroup]:
    """Yield the groups of any other adapter."""
    import numpy as np

    groups: dict[str, list[tuple[int, float]]] = {}
    for key, entry in adapter.tensors.items():
        norm = float(np.linalg.norm(adapter.values(key)))
        groups.setdefault(tensor_group(key), []).append((math.prod(entry["shape"]), norm))
    for kind, found in groups.items():
        norms = [norm for _, norm in found]
        count = sum(count for count, _ in found)
        yield LayerGroup(kind, len(found), None, None, count, math.hypot(*norms), max(norms))


def tensor_group(key: str) -> str:
    """Return the group of a tensor of another method: its layer's kind and its own name, such as `q_proj.hada_w1_a`."""
    parts = [part for part in key.split(".") if not part.isdecimal()]
    return ".".join([kind_of(".".join(parts[:-1])), parts[-1]]) if len(parts) > 1 else key
