"""Where a data file that a recipe names lies."""

from __future__ import annotations

from pathlib import Path

from lora_ns.basemodel import PACKAGED, packaged
from lora_ns.errors import DataError, Problem
from lora_ns.recipe.load import LoadedRecipe


def find_file(loaded: LoadedRecipe, name: str, key: str) -> Path:
    """A data file, relative to the recipe or to the current folder.

    Raises:
        DataError: if it is in neither.
    """
    if name.startswith(PACKAGED):
        return packaged(name)
    path = Path(name).expanduser()
    candidates = [path] if path.is_absolute() else [loaded.path.parent / path, Path.cwd() / path]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = " and ".join(dict.fromkeys(str(candidate) for candidate in candidates))
    raise DataError(Problem(loaded.where(key), f"{key}: no file `{name}`", f"looked at {looked}"))
