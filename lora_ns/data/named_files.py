"""Checks of the files, rows and base that a recipe names. Nothing is fetched and no row is read.

`distributed.accelerate_config` is not among them: it is read and checked with the recipe itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_ns.data.files.paths import missing_files
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.hub_cache import is_dataset_cached, is_hub_id, offline_variable
from lora_ns.files.reading import is_folder
from lora_ns.model.find import base_problems
from lora_ns.plan.deepspeed import check_own
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.recipe import Recipe


def check_named_files(loaded: LoadedRecipe) -> None:
    """Check the chat template and the DeepSpeed configuration, if the recipe names them.

    Raises:
        UsageError: with the problems of each, as training would report them.
    """
    from lora_ns.data.chat_templates import read_template

    problems: list[Problem] = []
    for check in (read_template, check_own):
        try:
            check(loaded.recipe, loaded.folder)
        except LoransError as error:
            problems += [problem.located(loaded.where) for problem in error.problems]
    if problems:
        raise UsageError(problems)


def find_missing(loaded: LoadedRecipe) -> list[Problem]:
    """The rows and the base that a recipe names and this machine does not have, each with its line.

    Online, what is on the hub and not in its cache is no problem: a training fetches it.

    Raises:
        MissingError: if a package is missing that reads the base.
    """
    recipe = loaded.recipe
    problems = [
        *base_problems(recipe.model, loaded.folder),
        *missing_files(recipe, loaded.folder),
        *_missing_datasets(recipe),
    ]
    return [problem.located(loaded.where) for problem in problems]


def _missing_datasets(recipe: Recipe) -> Iterator[Problem]:
    """Hub ids of datasets that are none, or that are not in the cache where the hub must not be reached."""
    variable = offline_variable("datasets")
    for key, table in recipe.dataset.parts().items():
        name = table.name
        # `datasets` takes a folder of the current directory for the dataset of that name.
        if name is None or is_folder(Path(name)) or name.startswith("buckets/"):
            continue
        if not is_hub_id(name):
            what = f"`{name}` is neither a hub id nor a folder here"
            yield Problem("", what, "write `owner/name`, or give `path` a file", key=f"{key}.name")
        elif variable and not is_dataset_cached(name):
            what = f"`{name}` is not in the cache of `datasets`, and {variable} is set"
            yield Problem("", what, "unset it to download, or give `path` a file", key=f"{key}.name")
