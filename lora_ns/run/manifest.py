"""The manifest: all that is known of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lora_ns import __version__
from lora_ns.formats import ProblemType
from lora_ns.plan.plan import Plan
from lora_ns.recipe.objective_tables import fields_of
from lora_ns.recipe.recipe import Recipe

MANIFEST_VERSION = 2
"""In version 1, a recipe had the tables of all objectives."""


Status = Literal["started", "running", "finished", "failed", "interrupted"]


class BaseRecord(BaseModel):
    """Which base the adapter belongs to."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: str
    moved_to: str | None = None
    """Where it was found since, by `--base` of `train --resume`."""
    commit: str | None
    gguf_file: str | None = None
    fingerprint: str
    tokenizer_fingerprint: str
    parameters: int
    trainable_parameters: int | None = None


class FileRecord(BaseModel):
    """A file that is read while it is trained on."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    sha256: str


class SourceRecord(BaseModel):
    """Which rows were read."""

    model_config = ConfigDict(frozen=True)

    source: str
    sha256: str
    rows: int
    """Rows used."""
    dropped: int = 0
    """Rows left out because they were too long."""
    truncated: int = 0
    """Rows cut because they were too long."""
    tokens: int = 0
    trained_tokens: int = 0
    left_out: int = 0
    """Rows of a stream left out because they cannot be read."""
    commit: str | None = None
    """Of a stream from the hub, the commit that was read."""
    files: tuple[FileRecord, ...] = ()
    """The files of a stream, whose rows the run directory does not have."""


class PartRecord(BaseModel):
    """What one of several sources gave."""

    model_config = ConfigDict(frozen=True)

    source: str
    sha256: str
    format: str
    columns: dict[str, Any]
    rows: int
    """Rows to train on, those set aside for evaluation not among them."""
    used: int
    """Rows trained on, each as often as it is."""
    repeated: int = 0
    """How many of these are repetitions."""
    held_out: int = 0
    """Rows set aside for evaluation."""
    weight: float | None = None


class DataRecord(BaseModel):
    """How rows became examples, and which they were."""

    model_config = ConfigDict(frozen=True)

    format: str
    columns: dict[str, Any]
    train: SourceRecord
    sources: tuple[PartRecord, ...] = ()
    """The sources of the training rows, where they are several."""
    eval: SourceRecord | None = None
    eval_rows: list[dict[str, Any]] = []
    """The evaluation rows that are answered, so that they can be answered again without the file."""


class SealRecord(BaseModel):
    """The saved adapter, opened again on a fresh base, against the model that was trained."""

    model_config = ConfigDict(frozen=True)

    rows: int
    """Rows that both answered."""
    largest_difference: float
    """Between their logits, relative to the largest one."""
    adapter_effect: float | None = None
    """The same between the trained model and the base; None where the adapter changes the positions."""


class DistributedRecord(BaseModel):
    """The processes that trained, as the engine reports them."""

    model_config = ConfigDict(frozen=True)

    strategy: str
    world_size: int
    backend: str | None = None


class Manifest(BaseModel):
    """All that is known of a run; what `infer`, `merge`, `eval` and `--resume` read."""

    model_config = ConfigDict(frozen=True)

    version: int = MANIFEST_VERSION
    lorans: str = __version__
    run_id: str
    status: Status = "started"
    created: str
    updated: str
    recipe: Recipe
    overrides: tuple[str, ...] = ()
    plan: Plan
    base: BaseRecord
    data: DataRecord
    chat_template_sha256: str | None = None
    chat_template: str | None = None
    """The template that the recipe put in the place of the tokenizer's own."""
    stop_token_ids: tuple[int, ...] = ()
    added_tokens: tuple[int, ...] = ()
    """Numbers of the tokens that the recipe adds."""
    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    """What a label is; None for text, and for runs of versions that knew classes alone."""
    packages: dict[str, str] = {}
    machine: dict[str, Any] = {}
    seed: int
    metrics: dict[str, Any] = {}
    baseline: dict[str, Any] = {}
    """By metric the constant answer that is best on the training rows; none for text, and in runs of older versions."""
    adapter: dict[str, str] = {}
    """SHA-256 of every file of the adapter, by its name."""
    seal: SealRecord | None = None
    distributed: DistributedRecord | None = None
    """None before the trainer was there, and in runs of versions that knew one process alone."""
    error: str | None = None
    awaits_launcher: bool = False
    """Prepared by `launch-command`: what the run replaces stays aside until its first step, however long that takes."""


def as_written_now(table: dict[str, Any]) -> dict[str, Any]:
    """The values of a manifest of an earlier version as this one writes them."""
    if table["version"] >= MANIFEST_VERSION:
        return table
    return {**table, "version": MANIFEST_VERSION, "recipe": fields_of(table["recipe"])}


def checksum_of(table: Mapping[str, Any]) -> str:
    """SHA-256 over the values of a manifest, whatever their order."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two nested tables, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = (before, after)
    return found
