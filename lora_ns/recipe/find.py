"""Search for recipes in folders."""

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
"""Files that mark a run directory, and a virtual environment."""


@dataclass(frozen=True)
class FoundRecipes:
    """Recipes in the order of the arguments; those of one folder are sorted by path."""

    paths: tuple[Path, ...]
    others: tuple[Path, ...] = ()
    """TOML files in the folders that are not recipes."""
    unread: tuple[Problem, ...] = ()
    """Folders that cannot be read."""


def find_recipes(named: Sequence[Path]) -> FoundRecipes:
    """Find the recipes among some files, and in some folders and their subfolders.

    A file that is named always counts as a recipe. In a folder, a TOML file counts if it has `task_type` or `[peft]`.
    Subfolders that are run directories (which contain copies of recipes), virtual environments or hidden are skipped.

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
    """True if a TOML file is a recipe, valid or not: it has `task_type` or `[peft]`.

    In a file with a syntax error, a line that starts with one of them is enough, so that the error is reported.
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
    """Yield the TOML files of a folder and its subfolders, sorted by path."""

    def note(error: OSError) -> None:
        unread.append(Problem(str(error.filename), f"cannot be read: {error.strerror}", "check its permissions"))

    for name, folders, files in os.walk(folder, onerror=note):
        here = Path(name)
        if here != folder and any(marks <= set(files) for marks in _LEFT_OUT):
            folders.clear()
            continue
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        yield from (here / file for file in sorted(files) if file.endswith(".toml") and not file.startswith("."))
