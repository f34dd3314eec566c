"""Search for the base of a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lora_ns.errors import ModelError, Problem
from lora_ns.files.hub_cache import offline_variable
from lora_ns.model.files import Base, find_base, not_cached
from lora_ns.recipe.model import Model


def find_recipe_base(model: Model, folder: Path) -> Base:
    """Find the base of a recipe, and download it if necessary. Raises `ModelError`, with the place in the recipe."""
    try:
        folders = [folder, Path.cwd()]
        base = find_base(model.name_or_path, model.revision, folders, download=True, gguf_file=model.gguf_file)
    except ModelError as error:
        raise ModelError(_keyed(problem) for problem in error.problems) from None
    assert base is not None, "a base that may be downloaded exists, or an error was raised"
    return base


def recipe_base_here(model: Model, folder: Path) -> Base | None:
    """Find the base of a recipe, if it is on this machine; nothing is downloaded. Raises `ModelError`."""
    folders = [folder, Path.cwd()]
    return find_base(model.name_or_path, model.revision, folders, download=False, gguf_file=model.gguf_file)


def base_problems(model: Model, folder: Path) -> list[Problem]:
    """Check the base of a recipe without downloading it.

    Raises:
        MissingError: if a package that reads it is missing.
    """
    try:
        base = recipe_base_here(model, folder)
    except ModelError as error:
        return [_keyed(problem) for problem in error.problems]
    return [not_cached(model.name_or_path)] if base is None and offline_variable() else []


def _keyed(problem: Problem) -> Problem:
    if problem.key or problem.where:
        return problem
    return replace(problem, place="model.name_or_path")
