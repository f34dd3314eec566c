"""The arguments of `lorans init`, and a recipe in progress."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_ns.model.abilities import Abilities
from lora_ns.model.files import PACKAGED


@dataclass(frozen=True)
class Wanted:
    """The arguments of `lorans init`."""

    folder: Path
    start: str | None = None
    """The recipe to start from; if None, a minimal recipe for your own rows, and the quickstart without any."""
    data: str | None = None
    model: str | None = None
    method: str | None = None
    task: str | None = None
    """PEFT's name of the task; None to choose it by the rows."""
    overrides: Sequence[str] = ()
    objective: str | None = None
    """Name of the objective's table; None to choose it by the rows."""

    def from_folder(self, name: str) -> str:
        """Convert a path relative to the current folder to one relative to the new folder."""
        path = Path(name).expanduser()
        return name if name.startswith(PACKAGED) or path.is_absolute() else os.path.relpath(path, self.folder)


@dataclass
class Draft:
    """A recipe in progress."""

    wanted: Wanted
    tables: dict[str, Any]
    overrides: Mapping[str, Mapping[str, Any]]
    """Tables of the overrides."""
    kept: dict[str, Any]
    """Keys of the starting recipe's `[dataset]` about the format of rows."""
    base: Abilities | None = None
    reasons: list[str] = field(default_factory=list)
    """One line per choice."""

    @property
    def settled(self) -> Mapping[str, Any]:
        """Keys of `[dataset]` among the overrides."""
        return self.overrides.get("dataset", {})

    @property
    def given(self) -> dict[str, Any]:
        """Keys of `[dataset]` that determine how the rows are read."""
        return {**self.kept, **self.settled}
