"""The record of an artefact: what `lorans infer` needs of its run, without paths and rows of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem, UsageError, first_line
from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import is_file, read_json
from lora_ns.files.strict_json import strict_json
from lora_ns.model.files import PACKAGED
from lora_ns.model.gguf import ENDING
from lora_ns.run.manifest import MANIFEST_VERSION, DataRecord, Manifest, SourceRecord, as_written_now
from lora_ns.safety.credentials import scrubbed_table

RECORD = "lorans_run.json"
"""File in the folder of an artefact, or beside its GGUF file with the name of that before it."""

_TEXTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""Files of a tokenizer that are kept with a GGUF file."""


@dataclass(frozen=True)
class Record:
    """The run of an artefact."""

    kind: str
    """The kind of artefact, such as `plain`."""
    manifest: Manifest
    """The manifest without rows, metrics and paths."""
    config: Mapping[str, Any] | None = None
    """The model's `config.json`, for a GGUF file, from whose header transformers does not read all settings."""
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    """The tokenizer's files, for a GGUF file, from whose header transformers does not rebuild every tokenizer."""


def record_file(place: Path) -> Path:
    """The file with the record of a folder or a GGUF file."""
    return place.with_name(f"{place.name}.{RECORD}") if place.suffix == ENDING else place / RECORD


def write_record(
    file: Path,
    kind: str,
    manifest: Manifest,
    config: Mapping[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Write the record of an artefact; arguments as the fields of `Record`, with the folder of a tokenizer."""
    kept = scrubbed_table(json.loads(_portable(manifest).model_dump_json()))
    table: dict[str, Any] = {"kind": kind, "manifest": kept}
    if config is not None:
        table["config"] = {key: value for key, value in config.items() if key != "_name_or_path"}
    if tokenizer is not None:
        files = (tokenizer / name for name in _TEXTS)
        table["tokenizer"] = {one.name: one.read_text(encoding="utf-8") for one in files if is_file(one)}
    write_atomic(file, f"{strict_json(table, indent=2, default=str)}\n")


def read_record(place: Path) -> Record | None:
    """Read the record of a folder or a GGUF file; None if there is none.

    Raises:
        UsageError: if it is damaged, or a newer lorans wrote it.
    """
    file = record_file(place)
    if not is_file(file) and place.suffix == ENDING:
        file = place.with_name(RECORD)  # the file was exported into a folder of its own
    if not is_file(file):
        return None
    try:
        table = read_json(file)
        if (version := table["manifest"]["version"]) > MANIFEST_VERSION:
            what = f"written by a newer lorans (manifest version {version}, this one reads {MANIFEST_VERSION})"
            raise UsageError(Problem(str(file), what, "`pip install --upgrade lora-ns`"))
        manifest = Manifest.model_validate_json(json.dumps(as_written_now(table["manifest"])))
        tokenizer = {name: str(text) for name, text in table.get("tokenizer", {}).items() if name in _TEXTS}
        return Record(str(table["kind"]), manifest, table.get("config"), tokenizer)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "export it again, or name its run with `--against`"
        raise UsageError(Problem(str(file), f"is damaged: {first_line(error)}", remedy)) from None


def _portable(manifest: Manifest) -> Manifest:
    """A manifest with what an artefact needs to answer."""
    base = manifest.base
    is_name = base.commit is not None or base.name.startswith(PACKAGED)
    moved = {"name": base.name if is_name else Path(base.path).name, "path": Path(base.path).name, "moved_to": None}
    train = SourceRecord(source="", sha256=manifest.data.train.sha256, rows=manifest.data.train.rows)
    return manifest.model_copy(
        update={
            "base": base.model_copy(update=moved),
            "data": DataRecord(format=manifest.data.format, columns=manifest.data.columns, train=train),
            "plan": manifest.plan.model_copy(update={"deepspeed": None, "notes": ()}),
            "sources": (),
            "folder": None,
            "teacher": None,
            "init_adapter": None,
            "base_adapters": (),
            "machine": {},
            "metrics": {},
            "baseline": {},
            "adapter": {},
            "seal": None,
            "lineage": None,
            "reproduces": None,
            "distributed": None,
            "error": None,
        }
    )
