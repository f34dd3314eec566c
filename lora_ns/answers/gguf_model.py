"""GGUF files that answer: a model, or an adapter beside the stored base, read and dequantised by transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_ns.answers.opened import Opened, Trained, loading_of, stored_base
from lora_ns.exports.gguf_lora import add_adapter
from lora_ns.files.temporary import temporary_folder
from lora_ns.machine.exhaustion import telling_memory_errors
from lora_ns.model.files import Base
from lora_ns.model.gguf import GgufHeader, read_gguf
from lora_ns.model.load import empty_base, load_base
from lora_ns.quantizers import NoQuantization

_INCOMPLETE = ("qwen3",)
"""Architectures whose settings transformers does not read from the header as a whole."""


def configuration(base: Base, trust_remote_code: bool = False) -> dict[str, Any]:
    """Return the configuration of a causal model in transformers' current spelling."""
    found: dict[str, Any] = empty_base(base, "CAUSAL_LM", trust_remote_code).config.to_dict()
    return found


def trained_configuration(opened: Opened) -> dict[str, Any]:
    """Return the configuration of the trained model of a run: that of its base, with rows for new tokens."""
    found = configuration(opened.base, opened.manifest.recipe.model.trust_remote_code)
    rows = max((number + 1 for number in opened.manifest.added_tokens), default=0)
    return {**found, "vocab_size": max(found["vocab_size"], rows)}


def needs_configuration(header: GgufHeader, config: Mapping[str, Any]) -> bool:
    """True if transformers needs `config.json` beside a file, because it does not read all settings from the header."""
    has_biases = config.get("attention_bias") or config.get("mlp_bias")
    return bool(has_biases) or header.scales_positions or header.config.get("model_type") in _INCOMPLETE


@contextmanager
def alone(file: Path, config: Mapping[str, Any]) -> Iterator[Base]:
    """A GGUF file as a base in a folder of its own, with `config.json` if transformers needs that."""
    with temporary_folder() as folder:
        place = folder / file.name
        place.symlink_to(file.absolute())
        if needs_configuration(read_gguf(file), config):
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield Base(str(file), folder, gguf_file=place.name)


@dataclass(frozen=True)
class GgufModel(Opened):
    """A GGUF file with a whole model. Its run directory is the path of the file."""

    config: Mapping[str, Any]
    """The model's `config.json`."""

    @property
    def adapter(self) -> None:
        """None: the weights hold everything."""

    def room(self) -> int | None:
        """Positions for prompt and answer; None if the model does not declare a limit."""
        found = self.config.get("max_position_embeddings") or self.base.facts.max_position_embeddings
        return int(found) if found else None

    def load(self) -> Trained:
        """Load its weights. Raises `ModelError`."""
        message = f"out of memory while loading {self.base.location}"
        with telling_memory_errors(lambda: message, "free memory"), alone(self.base.location, self.config) as base:
            model = load_base(base, replace(loading_of(self.manifest), quantization=NoQuantization())).eval()
        return Trained(self.run, self.manifest, self.base, self.tokenizer, model)


@dataclass(frozen=True)
class GgufAdapter(Opened):
    """A GGUF LoRA on the stored base. Its run directory is the path of the file."""

    config: Mapping[str, Any]
    """The `config.json` of the base."""

    @property
    def adapter(self) -> None:
        """None: the weights hold the update, too."""

    def load(self) -> Trained:
        """Load the base, and add the update to its weights. Raises `ModelError` or `UsageError`."""
        message = f"out of memory while loading {self.base.path}"
        with telling_memory_errors(lambda: message, "free memory"):
            model = stored_base(self)
            add_adapter(model, self.run.path, self.config)
            model.to(self.manifest.plan.device.value).eval()
        return Trained(self.run, self.manifest, self.base, self.tokenizer, model)
