"""Initialisations of LoRA for which the adapter belongs to a changed base."""

from __future__ import annotations

from collections.abc import Iterator

from lora_ns.readers.adapter import Adapter
from lora_ns.readers.base import Finding

MOVE_BASE = frozenset({"corda", "loftq", "lora_ga", "olora", "pissa", "pissa_niter"})
"""Initialisations that subtract the initial update from the base, or quantise it."""


def convert_remedy(adapter: Adapter) -> str:
    """Advise to take an adapter that belongs to the unchanged base."""
    if adapter.run is not None:
        return f"take {adapter.run / 'adapter'}, which lorans saves for the unchanged base when the run ends"
    return "save it again with PEFT's `path_initial_model_for_weight_conversion`, which makes it a plain LoRA"


def start_of(adapter: Adapter) -> str:
    """Return the initialisation in the configuration, without its numbers; empty for the default.

    lorans saves the adapters of its runs for the unchanged base, with the default in the configuration.
    """
    value = adapter.config.get("init_lora_weights")
    if not isinstance(value, str):
        return ""
    name = value.lower()
    return "pissa_niter" if name.startswith("pissa_niter") else name


def moved_base(adapter: Adapter, more: str = "") -> Iterator[Finding]:
    """Yield the finding about such an initialisation, for readers that add the adapter to the base as it is."""
    if (start := start_of(adapter)) in MOVE_BASE:
        what = f"adds the adapter to the base as it is, but {start} changed the base before the training{more}"
        yield Finding("wrong", "init_lora_weights", what, convert_remedy(adapter))
