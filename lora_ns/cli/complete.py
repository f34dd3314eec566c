"""Shell completion: recipes, run directories, and the keys of `--set` with their values."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lora_ns.safety.printable import printable

MOST = 100
"""Maximum number of candidates."""


DEEPEST = 4


MOST_FOLDERS = 5000


def recipe_files(incomplete: str) -> list[str]:
    """Complete TOML files below the folder typed so far."""
    return _paths(incomplete, lambda folder, files: [folder / name for name in files if name.endswith(".toml")])


def run_folders(incomplete: str) -> list[str]:
    """Complete run directories."""
    return _paths(incomplete, lambda folder, files: [folder] if "manifest.json" in files else [])


def folders_with_runs(incomplete: str) -> list[str]:
    """Complete folders."""
    return _paths(incomplete, lambda folder, _: [folder])


def adapter_folders(incomplete: str) -> list[str]:
    """Complete folders with an adapter, and run directories."""
    return _paths(
        incomplete, lambda folder, files: [folder] if {"adapter_config.json", "manifest.json"} & set(files) else []
    )


def readers(incomplete: str) -> list[str]:
    """Complete programs that load adapters."""
    from lora_ns.readers import READERS

    return [name for name in READERS if name.startswith(incomplete)]


def recipes_and_runs(incomplete: str) -> list[str]:
    """Complete recipes and run directories, for `lorans train --resume`."""
    return [*recipe_files(incomplete), *run_folders(incomplete)][:MOST]


def overrides(incomplete: str) -> list[str]:
    """Complete the keys of `--set`, then the values of a key that takes only a few."""
    from lora_ns.recipe.keys import choices, known_keys

    key = incomplete.partition("=")[0]
    keys = [name for name in known_keys() if name == key or (name.startswith(key) and "=" not in incomplete)]
    offered = [f"{name}=" for name in keys]
    if len(keys) == 1:
        offered = [f"{keys[0]}={value}" for value in choices(keys[0])] or offered
    return sorted(text for text in offered if text.startswith(incomplete))


def starts(incomplete: str) -> list[str]:
    """Complete the recipes of `lorans init`."""
    from lora_ns.recipe.starters import STARTS

    return [name for name in STARTS if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """The tasks, by PEFT's names."""
    from lora_ns.objectives import TASK_TYPES

    return [name for name in TASK_TYPES if name.startswith(incomplete.upper())]


def objectives(incomplete: str) -> list[str]:
    """The objectives, by the names of their tables."""
    from lora_ns.objectives import OBJECTIVE_TABLES

    return [name for name in OBJECTIVE_TABLES if name.startswith(incomplete)]


def suites(incomplete: str) -> list[str]:
    """Complete the kinds of evaluation suites."""
    from lora_ns.suites import SUITES

    return [name for name in SUITES if name.startswith(incomplete)]


def tools(incomplete: str) -> list[str]:
    """Complete the tools that `lorans import` reads."""
    from lora_ns.importers.registry import IMPORTERS

    return [name for name in IMPORTERS if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Complete PEFT methods."""
    from lora_ns.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def _paths(incomplete: str, pick: Callable[[Path, list[str]], list[Path]]) -> list[str]:
    typed = Path(incomplete).expanduser()
    start = typed if incomplete.endswith(os.sep) or not incomplete else typed.parent
    # The shell prints candidates as they are, so unprintable names are not offered.
    listed = (str(path) for folder, files in _folders(start) for path in pick(folder, files))
    found = (path for path in listed if printable(path) == path)
    home = str(Path("~").expanduser())
    matching = (path for path in found if path.startswith(str(typed)) or not incomplete)
    if incomplete.startswith("~"):
        matching = (path.replace(home, "~", 1) for path in matching)
    return sorted(itertools.islice(matching, MOST))


def _folders(start: Path) -> Iterator[tuple[Path, list[str]]]:
    for name, folders, files in itertools.islice(os.walk(start), MOST_FOLDERS):
        folder = Path(name)
        depth = len(folder.relative_to(start).parts)
        folders[:] = [] if depth >= DEEPEST else sorted(entry for entry in folders if not entry.startswith("."))
        yield folder, files
