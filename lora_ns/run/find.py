"""Finding run directories below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

MANIFEST = "manifest.json"


_BESIDE = frozenset({"recipe.toml", "metrics.jsonl", "train.log", "checkpoints"})
"""Names of which a run has at least one beside its manifest. Other programs have a `manifest.json` as well."""


DEEPEST = 12
"""Maximum nesting depth of folders that are searched."""


def find_runs(folder: Path, tell: Callable[[str], None] = lambda _: None) -> Iterator[Path]:
    """Yield the run directories in a folder and below it, by name.

    Links are followed, each folder once. Hidden folders and the insides of runs are skipped.

    Args:
        folder: where to look; it may be a run itself.
        tell: receives a note about each folder that cannot be read.
    """
    yield from _below(folder, set(), tell, 0)


def _below(folder: Path, seen: set[tuple[int, int]], tell: Callable[[str], None], depth: int) -> Iterator[Path]:
    try:
        facts = os.stat(folder)  # noqa: PTH116 -- `Path.stat` costs as much again for hundreds of folders
        if (facts.st_dev, facts.st_ino) in seen:
            return
        seen.add((facts.st_dev, facts.st_ino))
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        tell(f"{folder}: skipped, cannot be read: {getattr(error, 'strerror', None) or error}")
        return
    names = {entry.name for entry in entries}
    if MANIFEST in names and names & _BESIDE:
        yield folder
        return
    if depth == DEEPEST:
        return
    for entry in entries:
        if not entry.name.startswith(".") and _is_folder(entry):
            yield from _below(folder / entry.name, seen, tell, depth + 1)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
