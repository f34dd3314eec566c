"""The manifest: the complete record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from lora_ns import __version__
from lora_ns.files.disk import sha256_file
from lora_ns.formats import ProblemType
from lora_ns.plan.plan import Plan
from lora_ns.recipe.objective_tables import fields_of
from lora_ns.recipe.recipe import Recipe

MANIFEST_VERSION = 2
"""Version 1 recipes had the tables of all objectives."""


EARLY, IN_TIME = "early stopping: ", "time limit: "
"""Beginnings of the reasons why training ended before the planned last step."""


Status = Literal["started", "running", "finished", "failed", "interrupted"]


class BaseRecord(BaseModel):
    """The base that the adapter belongs to."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    path: str
    moved_to: str | None = None
    """New path of the base, from `--base` of `train --resume`."""
    commit: str | None
    gguf_file: str | None = None
    fingerprint: str
    tokenizer_fingerprint: str
    parameters: int
    trainable_parameters: int | None = None


class TeacherRecord(BaseModel):
    """The teacher that a run learns from."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    """The name in the recipe."""
    base: BaseRecord
    run: str | None = None
    """Path of the run whose adapter it has; None for a model without one."""
    adapter: dict[str, str] = {}
    """SHA-256 of every file of that adapter, by name."""


class FileRecord(BaseModel):
    """A file that is read during training."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    path: str
    size: int
    sha256: str


def file_record(file: Path) -> FileRecord:
    """The record of a file, with its absolute path. Raises `OSError`."""
    return FileRecord(path=str(file.absolute()), size=file.stat().st_size, sha256=sha256_file(file))


class SourceRecord(BaseModel):
    """The rows that were read."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    source: str
    sha256: str
    rows: int
    """Rows used."""
    dropped: int = 0
    """Rows dropped because they were too long."""
    truncated: int = 0
    """Rows truncated because they were too long."""
    tokens: int = 0
    trained_tokens: int = 0
    left_out: int = 0
    """Unreadable rows that were left out of a stream."""
    commit: str | None = None
    """The commit that was read, for a stream from the hub."""
    files: tuple[FileRecord, ...] = ()
    """The files of a stream, whose rows are not in the run directory."""


class PartRecord(BaseModel):
    """The share of one of several data sources."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    source: str
    sha256: str
    format: str
    columns: dict[str, Any]
    rows: int
    """Training rows, without those held out for evaluation."""
    used: int
    """Rows trained on, with repetitions."""
    repeated: int = 0
    """Number of repetitions among them."""
    held_out: int = 0
    """Rows held out for evaluation."""
    weight: float | None = None


class DataRecord(BaseModel):
    """The examples, and the format that made them from rows."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    format: str
    columns: dict[str, Any]
    train: SourceRecord
    sources: tuple[PartRecord, ...] = ()
    """The sources of the training rows, if there are several."""
    eval: SourceRecord | None = None
    eval_rows: list[dict[str, Any]] = []
    """The evaluation rows for generated answers, kept so that the file is not needed again."""


class EarlierAdapter(BaseModel):
    """The adapter of an earlier run that a run started from or merged into its base, and of which it keeps a copy."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    run: str
    """Directory of the earlier run when it was read."""
    run_id: str
    sha256: str
    """SHA-256 of the adapter's weights."""


class SealRecord(BaseModel):
    """Comparison of the saved adapter on a fresh base with the trained model."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    rows: int
    """Rows that both models computed."""
    largest_difference: float
    """Largest difference of their logits, relative to the largest logit."""
    adapter_effect: float | None = None
    """The same difference between trained model and base; None if the adapter changes the positions."""


class BestRecord(BaseModel):
    """The best evaluation of a run, whose adapter is in `best`."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    step: int
    metric: str
    """The metric, without `eval_`."""
    value: float


class HalvedRecord(BaseModel):
    """Most of a batch that memory was found to have room for at once, after a step or an evaluation ran out of it."""

    model_config = ConfigDict(frozen=True)

    train: PositiveInt | None = None
    """None if no step has run out of memory."""
    evaluation: PositiveInt | None = None
    """None if no evaluation has."""
    unit: Literal["rows", "tokens"] = "rows"
    """Tokens if rows are packed."""


class DistributedRecord(BaseModel):
    """The training processes, as reported by the engine."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    strategy: str
    world_size: int
    backend: str | None = None


class Manifest(BaseModel):
    """Complete record of a run, which `infer`, `merge`, `eval` and `--resume` read."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    version: int = MANIFEST_VERSION
    lorans: str = __version__
    run_id: str
    status: Status = "started"
    created: str
    updated: str
    recipe: Recipe
    overrides: tuple[str, ...] = ()
    folder: str | None = None
    """Folder of the recipe, in which it names files; None in runs of old versions."""
    plan: Plan
    base: BaseRecord
    teacher: TeacherRecord | None = None
    """None unless the objective has a teacher."""
    data: DataRecord
    sources: tuple[FileRecord, ...] = ()
    """The files that rows were read from, with those of suites; empty for the hub's, and in runs of old versions."""
    init_adapter: EarlierAdapter | None = None
    """The adapter that training started from; None for a new one."""
    base_adapters: tuple[EarlierAdapter, ...] = ()
    """Adapters that are merged into the base, in this order."""
    chat_template_sha256: str | None = None
    chat_template: str | None = None
    """The chat template of the recipe, which replaces the tokenizer's."""
    stop_token_ids: tuple[int, ...] = ()
    added_tokens: tuple[int, ...] = ()
    """Ids of the tokens that the recipe adds."""
    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    """Type of the labels; None for text, and in runs of old versions that only knew classes."""
    packages: dict[str, str] = {}
    machine: dict[str, Any] = {}
    seed: int
    metrics: dict[str, Any] = {}
    baseline: dict[str, Any] = {}
    """Best constant answer on the training rows, by metric; empty for text, and in runs of old versions."""
    adapter: dict[str, str] = {}
    """SHA-256 of every file of the adapter, by name."""
    adapter_step: int | None = None
    """Step of the weights of the adapter; None until it is saved, and in runs of old versions."""
    best: BestRecord | None = None
    """The best evaluation; None unless the recipe asks for it."""
    ended: str | None = None
    """Why training ended before the planned last step, beginning with `EARLY` or `IN_TIME`; None if it did not."""
    seal: SealRecord | None = None
    lineage: str | None = None
    """SHA-256 of the last link of the lineage before the manifest's own; None in runs that began without one."""
    halved: HalvedRecord | None = None
    """None if memory never ran out, and in runs of old versions."""
    distributed: DistributedRecord | None = None
    """None until the trainer exists, and in runs of old versions that used one process."""
    error: str | None = None
    reproduces: str | None = None
    """Id of the run that this one repeats."""
    ends_at: int | None = None
    """Step after which it ends, because a time limit has ended the run that it repeats there."""
    is_forced: bool = False
    """True if the run trains although its rewards were found to teach nothing."""
    awaits_launcher: bool = False
    """True for a run prepared by `launch-command`: the run that it replaces stays aside until its first step."""

    @property
    def is_complete(self) -> bool:
        """True if no step is left: a run that its time limit has ended is finished, and can be resumed."""
        return self.status == "finished" and not self.ended_in_time

    @property
    def ended_in_time(self) -> bool:
        """True if the time limit ended training."""
        return (self.ended or "").startswith(IN_TIME)


def as_written_now(table: dict[str, Any]) -> dict[str, Any]:
    """Upgrade the values of a manifest to the current version."""
    if table["version"] >= MANIFEST_VERSION:
        return table
    return {**table, "version": MANIFEST_VERSION, "recipe": fields_of(table["recipe"])}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Compare two nested tables; returns the dotted keys that differ, with both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = (before, after)
    return found
