"""The manifest as it is written: a few fields of it, read without its model, which takes most of a second to import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class WrittenManifest:
    """What the lineage of a run is compared with. Other fields are in `table`, unchecked."""

    table: Mapping[str, Any]
    run_id: str
    status: str
    lineage: str | None
    adapter: Mapping[str, str]
    sources: tuple[tuple[Path, str], ...]
    """Path and SHA-256 of each file that rows were read from."""
    base_name: str
    base_path: Path
    commit: str | None
    gguf_file: str | None
    fingerprint: str
    tokenizer_fingerprint: str


def written_manifest(table: Mapping[str, Any]) -> WrittenManifest:
    """Take the fields from the values of a manifest. Raises `KeyError`, `TypeError` or `AttributeError`."""
    base = table["base"]
    commit, gguf_file = base.get("commit"), base.get("gguf_file")
    return WrittenManifest(
        table,
        run_id=str(table["run_id"]),
        status=str(table["status"]),
        lineage=None if table.get("lineage") is None else str(table["lineage"]),
        adapter={str(name): str(sha256) for name, sha256 in table.get("adapter", {}).items()},
        sources=tuple((Path(one["path"]), str(one["sha256"])) for one in table.get("sources", ())),
        base_name=str(base["name"]),
        base_path=Path(base.get("moved_to") or base["path"]),
        commit=None if commit is None else str(commit),
        gguf_file=None if gguf_file is None else str(gguf_file),
        fingerprint=str(base["fingerprint"]),
        tokenizer_fingerprint=str(base["tokenizer_fingerprint"]),
    )


def checksum_of(table: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values, independent of their order."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
