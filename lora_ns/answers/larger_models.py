"""Models that are larger than free memory answer layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.opened import Opened, load, loading_of
from lora_ns.answers.probes import Probe, Reply, ask_probes, ask_together
from lora_ns.machine.hardware import memory_bytes
from lora_ns.merging.by_layer import load_by_layer
from lora_ns.merging.refusal import WholeModelError
from lora_ns.model.files import Base
from lora_ns.model.load import Loading
from lora_ns.plan.fit import USABLE_MEMORY
from lora_ns.run.observer import Observer

if TYPE_CHECKING:
    import torch


def ask_trained(
    opened: Opened, probes: Sequence[Probe], dtype: str, observer: Observer, adapter: Path | None = None
) -> list[Reply]:
    """Return the answers of a run's model, layer by layer if it is larger than free memory.

    Args:
        opened: the run.
        probes: the probes.
        dtype: the dtype to compute in.
        observer: receives the stage.
        adapter: an adapter that takes the place of the run's own.
    """
    loading = loading_of(opened.manifest)
    if not opened.manifest.base_adapters:
        found = ask_by_layer(opened.base, loading, adapter or opened.run.adapter, probes, dtype, observer)
        if found is not None:
            return found
    model = load(opened, adapter).model
    return ask_probes(model, probes, model.device, dtype)


def ask_by_layer(
    base: Base, loading: Loading, adapter: Path | None, probes: Sequence[Probe], dtype: str, observer: Observer
) -> list[Reply] | None:
    """Return the answers of a model that is larger than free memory; None if it must be, or can be, loaded as a whole.

    Args:
        base: the base, or a model without an adapter.
        loading: the options with which it would be loaded.
        adapter: the folder of its adapter.
        probes: the probes.
        dtype: the dtype to compute in.
        observer: receives the stage.

    Raises:
        ModelError: as loading the whole model does.
    """
    import torch

    if not is_larger_than_memory(base, loading):
        return None
    try:
        model = load_by_layer(base, loading, adapter)
        observer.stage("larger than free memory: reading it layer by layer")
        if loading.task_type == "SEQ_CLS":  # which needs a padding token for more than one row
            replies = ask_probes(model, probes, torch.device("cpu"), dtype)
        else:
            replies = ask_together(model, probes, dtype)
        if not all(_is_finite(reply.logits) for reply in replies):
            raise WholeModelError("its modules do not work one at a time")
    except WholeModelError as refusal:
        observer.stage(f"larger than free memory, and still read as a whole, because {refusal}")
        return None
    return replies


def is_larger_than_memory(base: Base, loading: Loading) -> bool:
    """True if the weights, in the dtype of the computation, do not fit into the free memory of the device."""
    import torch

    needed = base.facts.parameters * int(getattr(torch, loading.dtype).itemsize)
    free = free_bytes(loading.device)
    return bool(free) and needed > USABLE_MEMORY * free


def free_bytes(device: str) -> int:
    """Return the free memory of a device, in bytes; 0 if it is unknown."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else memory_bytes()[1]


def _is_finite(values: torch.Tensor) -> bool:
    return bool(values.isfinite().all())
