"""The arguments of `lorans init`, and a recipe while it is fitted to them."""

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
    """The recipe to start from; if absent, the quickstart, or for rows of the user's the least that a recipe needs."""
    data: str | None = None
    model: str | None = None
    method: str | None = None
    task: str | None = None
    """PEFT's name of the task, if the rows do not decide."""
    overrides: Sequence[str] = ()

    def from_folder(self, name: str) -> str:
        """A path that was given from here, as the recipe in the new folder names it."""
        path = Path(name).expanduser()
        return name if name.startswith(PACKAGED) or path.is_absolute() else os.path.relpath(path, self.folder)


@dataclass
class Draft:
    """A recipe while it is fitted to its rows and its base."""

    wanted: Wanted
    tables: dict[str, Any]
    said: Mapping[str, Mapping[str, Any]]
    """The tables of the overrides."""
    kept: dict[str, Any]
    """Those of the recipe to start from that say how rows are read."""
    base: Abilities | None = None
    reasons: list[str] = field(default_factory=list)
    """A line for each choice."""

    @property
    def settled(self) -> Mapping[str, Any]:
        """Keys of `[dataset]` among the overrides."""
        return self.said.get("dataset", {})

    @property
    def asked(self) -> dict[str, Any]:
        """Keys of `[dataset]` by which the rows are read in any case."""
        return {**self.kept, **self.settled}
