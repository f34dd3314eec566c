"""Bases that are not on this machine and whose shapes are published: enough for a plan."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lora_ns.architectures import families
from lora_ns.model.files import BaseFacts, read_facts
from lora_ns.recipe.model import Model

_TABLE = Path(families.__file__).with_name("published.json")


class HasFacts(Protocol):
    """A base whose sizes are known, on this machine or not."""

    @property
    def facts(self) -> BaseFacts:
        """Sizes of the model."""


@dataclass(frozen=True)
class PublishedBase:
    """A base on the hub of which only the shapes are known."""

    facts: BaseFacts


def published_base(model: Model) -> PublishedBase | None:
    """Return the published shapes of a recipe's base; None if it is not in the table, or names a GGUF file."""
    entry = published_models().get(model.name_or_path.lower())
    if entry is None or model.gguf_file is not None:
        return None
    return PublishedBase(_facts(entry, model.name_or_path))


@functools.cache
def published_models() -> Mapping[str, Mapping[str, Any]]:
    """Return the table of published models, by their hub ids in lower case."""
    table = json.loads(_TABLE.read_text(encoding="utf-8"))
    return {name.lower(): entry for entry in table for name in entry["ids"]}


def _facts(entry: Mapping[str, Any], name: str) -> BaseFacts:
    """Return the sizes that the files of a model would have."""
    config, dtype = entry["config"], entry["dtype"]
    weights = families.model_weights(config) or ()
    tensors = {weight.name: {"dtype": dtype, "shape": list(weight.shape)} for weight in weights if not weight.tied_to}
    if pooler := entry.get("pooler"):
        width = config["hidden_size"]
        tensors |= {f"{pooler}.weight": {"dtype": dtype, "shape": [width, width]}}
    return replace(read_facts(config, tensors), parameters=entry["parameters"], published_as=name)
