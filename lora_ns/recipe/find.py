"""Recipes in folders: which TOML files are recipes, and which folders are not looked into."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.reading import LARGEST_RECIPE, TOMLDecodeError, is_folder, load_toml, read_text

MARKS = ("task_type", "peft")
"""Top-level keys that only recipes have. `model` and `training`, say, are tables of other tools as well."""


_MARKED_LINE = re.compile(rf"^\s*(?:\[\s*)?(?:{'|'.join(MARKS)})\s*[\].=]", re.MULTILINE)


_LEFT_OUT = (frozenset({"manifest.json", "recipe.toml"}), frozenset({"pyvenv.cfg"}))
"""The files that show a run directory, and a virtual environment."""


@dataclass(frozen=True)
class FoundRecipes:
    """Recipes in the order in which they were named, those of a folder by their paths."""

    paths: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    """TOML files of the folders that are no recipes."""
    unread: tuple[Problem, ...] = ()
    """Folders that cannot be read."""


def find_recipes(named: Sequence[Path]) -> FoundRecipes:
    """The recipes that are named, and all recipes in the folders that are named and below them.

    A file is taken for a recipe because it is named; in a folder, a TOML file is one if it has `task_type` or `[peft]`.
    Run directories, which have copies of recipes, virtual environments and hidden folders are left out below a folder.

    Raises:
        UsageError: if a folder has no recipe.
    """
    found: dict[str, Path] = {}
    others: dict[str, Path] = {}
    unread: list[Problem] = []
    problems: list[Problem] = []
    for path in named:
        if not is_folder(path):
            found.setdefault(os.path.realpath(path), path)
            continue
        files = list(_toml_files(path, unread))
        recipes = [file for file in files if is_recipe(file)]
        if not recipes:
            problems.append(_no_recipe(path, files))
        for file in recipes:
            found.setdefault(os.path.realpath(file), file)
        others |= {os.path.realpath(file): file for file in files if file not in recipes}
    if problems:
        raise UsageError(problems)
    left = [file for real, file in others.items() if real not in found]
    return FoundRecipes(tuple(found.values()), tuple(left), tuple(unread))


def is_recipe(file: Path) -> bool:
    """Whether a TOML file is a recipe, right or wrong: it has `task_type` or `[peft]`.

    Of a text that is not TOML a line that begins with one of them is enough, so that its error is reported.
    """
    try:
        text = read_text(file, most=LARGEST_RECIPE)
    except LoransError:
        return False
    try:
        return not load_toml(text).keys().isdisjoint(MARKS)
    except (TOMLDecodeError, ValueError):
        return bool(_MARKED_LINE.search(text))


def _no_recipe(folder: Path, files: Sequence[Path]) -> Problem:
    others = f", and {len(files):,} other TOML file{'s' * (len(files) > 1)}" if files else ""
    remedy = "a recipe is a .toml file with `task_type` and `[peft]`; `lorans init NAME` writes one"
    return Problem(str(folder), f"no recipe in this folder or below{others}", remedy)


def _toml_files(folder: Path, unread: list[Problem]) -> Iterator[Path]:
    """The TOML files of a folder and of those below it, sorted by their paths."""

    def note(error: OSError) -> None:
        unread.append(Problem(str(error.filename), f"cannot be read: {error.strerror}", "check its rights"))

    for name, folders, files in os.walk(folder, onerror=note):
        here = Path(name)
        if here != folder and any(marks <= set(files) for marks in _LEFT_OUT):
            folders.clear()
            continue
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        yield from (here / file for file in sorted(files) if file.endswith(".toml") and not file.startswith("."))
