"""Readers: an adapter folder, and what each program that loads it makes of it. Each is a class in its own file."""

from __future__ import annotations

from collections.abc import Mapping

from lora_ns.readers.adapter import Adapter, Layer, kind_of, read_adapter
from lora_ns.readers.base import Factor, Finding, Reader, Severity
from lora_ns.readers.faults import faults
from lora_ns.readers.llama_cpp import LlamaCpp
from lora_ns.readers.ollama import Ollama
from lora_ns.readers.peft import Peft
from lora_ns.readers.transformers import Transformers
from lora_ns.readers.vllm import Vllm

__all__ = [
    "READERS",
    "Adapter",
    "Factor",
    "Finding",
    "Layer",
    "Reader",
    "Severity",
    "faults",
    "kind_of",
    "read_adapter",
]

READERS: Mapping[str, Reader] = {
    reader.name: reader for reader in (Vllm(), LlamaCpp(), Ollama(), Transformers(), Peft())
}
"""Readers by their name for `--for`."""
