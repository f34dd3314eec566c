"""Checks of the files, rows and base that a recipe names. Nothing is downloaded and no row is read.

`distributed.accelerate_config` is checked with the recipe itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_ns.data.files.paths import missing_files
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.hub_cache import is_dataset_cached, is_hub_id, offline_variable
from lora_ns.files.reading import is_folder
from lora_ns.model.find import base_problems
from lora_ns.plan.deepspeed import check_own
from lora_ns.recipe.earlier_run import folder_of, missing_run
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.recipe import Recipe
from lora_ns.rewards import RewardModel


def check_named_files(loaded: LoadedRecipe) -> None:
    """Check the chat template and the DeepSpeed configuration, if the recipe names them.

    Raises:
        UsageError: with the same problems that training would report.
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
    """Find missing rows and a missing base, each with its line in the recipe.

    Online, a model or dataset on the hub is never missing, because training downloads it.

    Raises:
        MissingError: if a package that reads the base is missing.
    """
    recipe = loaded.recipe
    problems = [
        *base_problems(recipe.model, loaded.folder),
        *missing_files(recipe, loaded.folder),
        *_missing_datasets(recipe),
        *_unusable_runs(recipe, loaded.folder),
        *_missing_reward_models(recipe, loaded.folder),
    ]
    return [problem.located(loaded.where) for problem in problems]


def _unusable_runs(recipe: Recipe, folder: Path) -> Sequence[Problem]:
    """Return the problems of runs that are not there or not finished."""
    if not recipe.model.base_adapters and recipe.model.init_adapter is None:
        return ()
    from lora_ns.run.earlier import open_earlier

    try:
        open_earlier(recipe, folder)
    except UsageError as error:
        return error.problems
    return ()


def _missing_reward_models(recipe: Recipe, folder: Path) -> Iterator[Problem]:
    """Yield problems for reward models that are not the directory of a run."""
    for number, reward in enumerate(recipe.objective.reward_functions):
        key = recipe.objective.key(f"rewards.{number}.run")
        if isinstance(reward, RewardModel) and (problem := missing_run(folder_of(reward.run, folder), key)):
            yield problem


def _missing_datasets(recipe: Recipe) -> Iterator[Problem]:
    """Yield problems for invalid dataset names, and for datasets that are not in the cache while offline."""
    variable = offline_variable("datasets")
    for key, table in recipe.dataset.parts().items():
        name = table.name
        # `datasets` prefers a folder in the current directory to the hub.
        if name is None or is_folder(Path(name)) or name.startswith("buckets/"):
            continue
        if not is_hub_id(name):
            what = f"`{name}` is neither a hub id nor a folder here"
            yield Problem("", what, "write `owner/name`, or use `path` for a file", key=f"{key}.name")
        elif variable and not is_dataset_cached(name):
            what = f"`{name}` is not in the cache of `datasets`, and {variable} is set"
            yield Problem("", what, "unset it to download, or use `path` for a file", key=f"{key}.name")
