"""The base that a recipe names, found and settled."""

from __future__ import annotations

from pathlib import Path

from lora_ns.errors import ModelError, Problem
from lora_ns.model.files import Base, find_base
from lora_ns.recipe.load import LoadedRecipe


def find_recipe_base(loaded: LoadedRecipe) -> Base:
    """The base that a recipe names, fetched if need be. Raises `ModelError`, with the place in the recipe."""
    model = loaded.recipe.model
    try:
        folders = [loaded.path.parent, Path.cwd()]
        base = find_base(model.name_or_path, model.revision, folders, download=True, gguf_file=model.gguf_file)
    except ModelError as error:
        raise ModelError(_located(loaded, problem) for problem in error.problems) from None
    assert base is not None, "a base that may be fetched is there or an error"
    return base


def _located(loaded: LoadedRecipe, problem: Problem) -> Problem:
    if problem.where.startswith("model."):
        return Problem(loaded.where(problem.where), f"{problem.where}: {problem.what}", problem.remedy)
    where = problem.where or loaded.where("model.name_or_path")
    return Problem(where, problem.what, problem.remedy)
