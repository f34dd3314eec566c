"""Creation of a new folder from the arguments of `lorans init`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_ns.files import staging
from lora_ns.files.disk import write_atomic
from lora_ns.recipe.load import load_recipe
from lora_ns.recipe.overrides import apply_overrides
from lora_ns.recipe.starters import BARE, STARTS, Start, task_name_of, with_method, write_folder
from lora_ns.services.init.base import check_objective, fit_base
from lora_ns.services.init.draft import Draft, Wanted
from lora_ns.services.init.objective import allowed_objectives, select_objective
from lora_ns.services.init.question import Ask
from lora_ns.services.init.rows import fit_rows

_OWN_ROWS = "template"
"""The starting recipe that rows replace entirely."""


def make_files(wanted: Wanted, ask: Ask) -> tuple[dict[str, str], list[str]]:
    """Return the files of a new folder by name, and one line per choice. Nothing is written.

    Args:
        wanted: the arguments.
        ask: function that answers questions.

    Raises:
        UsageError: if rows, base and recipe do not fit together, or a question has no answer.
    """
    draft = _begin(wanted)
    fit_base(draft)
    if wanted.data:
        fit_rows(draft, ask)
    elif wanted.task or wanted.objective:
        _fit_objective(draft)
    name = wanted.folder.resolve().name
    draft.tables["training"] = {**draft.tables["training"], "output_dir": _free_output(wanted.folder, name)}
    return _checked(draft, name), draft.reasons


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files of a new folder or none. Raises `LoransError` if that fails."""
    place = folder.resolve()
    if not place.exists():
        with staging.folder(place) as staged:
            for name, text in files.items():
                write_atomic(staged / name, text)
            staged.rename(place)
        return
    written: list[Path] = []  # an empty folder is not replaced: it may be the current one
    try:
        for name, text in files.items():
            written.append(place / name)
            write_atomic(place / name, text)
    except BaseException:
        for file in written:
            with suppress(OSError):
                file.unlink()
        raise


def _begin(wanted: Wanted) -> Draft:
    """Create the draft from the starting recipe and the method."""
    is_bare = wanted.start is None and (wanted.data or wanted.task or wanted.objective)
    is_own = wanted.start == _OWN_ROWS and wanted.data
    start = BARE if is_bare or is_own else STARTS[wanted.start or "quickstart"]
    tables = copy.deepcopy(dict(start.tables))
    if wanted.method is not None:
        tables = with_method(tables, wanted.method)
    overridden: dict[str, Any] = {}
    apply_overrides(overridden, wanted.overrides)
    ways = {key: value for key, value in tables["dataset"].items() if key == "format" or key.endswith("_template")}
    return Draft(wanted, tables, {name: table for name, table in overridden.items() if isinstance(table, dict)}, ways)


def _fit_objective(draft: Draft) -> None:
    """Fit the draft to a task or an objective without rows; the folder gets example rows for it."""
    kind = allowed_objectives(draft)[0]
    check_objective(draft, kind)
    draft.tables["dataset"] = {"path": "train.jsonl", "eval_fraction": 0.25}
    draft.reasons.append(f"task: {kind.task_type}, with a few example rows to replace")
    select_objective(draft, kind, "asked for")


def _free_output(folder: Path, name: str) -> str:
    """Return a run directory that does not exist yet, here or in the new folder."""
    task = task_name_of(name)
    number, path = 1, f"outputs/{task}"
    while Path(path).exists() or (folder / path).exists():
        number += 1
        path = f"outputs/{task}-{number}"
    return path


def _checked(draft: Draft, name: str) -> dict[str, str]:
    """Return the files, after a check that the recipe loads. Raises `RecipeError`."""
    path, overrides = draft.wanted.folder / "recipe.toml", draft.wanted.overrides
    files = write_folder(Start("", draft.tables), name)
    load_recipe(path, overrides, files["recipe.toml"])
    if overrides:
        apply_overrides(draft.tables, overrides)
        files = write_folder(Start("", draft.tables), name)
        load_recipe(path, text=files["recipe.toml"])
    return files
