"""The runs of a board: found again at each look, read again where their files have changed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from lora_ns.run.find import find_runs
from lora_ns.run.overview import Overview, overview
from lora_ns.run.paths import RunPaths

_FRESH_SECONDS = 1.0
"""Seconds for which the list of runs is used again: several pages may ask at once."""


_Marks = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Shelved:
    """A run of the board."""

    key: str
    """Its name in addresses: a hash of its path, so that no address names a path."""
    name: str
    """Its path below the folder."""
    overview: Overview

    @property
    def path(self) -> Path:
        """The run directory."""
        return Path(self.overview.run)

    @property
    def files(self) -> RunPaths:
        """Its files."""
        return RunPaths(self.path)


class Shelf:
    """The runs below a folder, by their keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[_Marks, Overview]] = {}
        self._runs: dict[str, Shelved] = {}
        self._looked = -_FRESH_SECONDS

    def runs(self) -> dict[str, Shelved]:
        """Return all runs, in the order of their names."""
        with self._lock:
            if time.monotonic() - self._looked >= _FRESH_SECONDS:
                paths = list(find_runs(self.folder))
                self._read = {path: self._overview(path) for path in paths}
                shelved = [self._shelved(path) for path in paths]
                self._runs, self._looked = {one.key: one for one in shelved}, time.monotonic()
            return self._runs

    def _overview(self, path: Path) -> tuple[_Marks, Overview]:
        marks, known = marks_of(path), self._read.get(path)
        if known is not None and known[0] == marks and not known[1].is_in_progress:
            return known
        return marks, overview(path)

    def _shelved(self, path: Path) -> Shelved:
        name = str(path.relative_to(self.folder)) if path != self.folder else path.name
        key = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        return Shelved(key, name, self._read[path][1])


def marks_of(path: Path) -> _Marks:
    """Return times and sizes of the files that an overview reads: they differ once one of them has changed."""
    files = RunPaths(path)
    return tuple(_mark(file) for file in (files.manifest_file, files.metrics, files.evaluations, path))


def _mark(file: Path) -> tuple[int, int]:
    try:
        facts = file.stat()
    except (OSError, ValueError):
        return 0, 0
    return facts.st_mtime_ns, facts.st_size
