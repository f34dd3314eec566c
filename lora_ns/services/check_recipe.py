"""First level of `lorans validate`: the recipe, the files that it names and the packages that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.data.named_files import check_named_files, find_missing
from lora_ns.errors import LoransError, ModelError, Problem, UsageError
from lora_ns.machine import packages
from lora_ns.model.find import recipe_base_here
from lora_ns.objectives.distillation import Distillation
from lora_ns.recipe.load import LoadedRecipe, load_recipe, locating


@dataclass(frozen=True)
class Checked:
    """A valid recipe, with warnings about what this machine lacks."""

    loaded: LoadedRecipe
    warnings: tuple[Problem, ...] = ()
    """Missing rows, base and packages, if another machine will train."""


def check_recipe(path: Path, overrides: Sequence[str] = (), is_elsewhere: bool = False) -> Checked:
    """Read a recipe, and check that what it names exists. Nothing is downloaded.

    Args:
        path: the recipe.
        overrides: values of `--set`.
        is_elsewhere: True if another machine will train, so that missing things are warnings.

    Raises:
        LoransError: with every problem, in the class with the highest exit code.
    """
    loaded = load_recipe(path, overrides)
    wrong = _problems_of(check_named_files, loaded)
    lacking = _problems_of(_check_missing, loaded)
    if packages.can_train():
        lacking += _problems_of(_check_packages, loaded)
    if not is_elsewhere:
        wrong, lacking = [*wrong, *lacking], []
    if wrong:
        worst = max(wrong, key=lambda error: error.exit_code)
        raise type(worst)(problem for error in wrong for problem in error.problems)
    return Checked(loaded, tuple(problem for error in lacking for problem in error.problems))


def _problems_of(check: Callable[[LoadedRecipe], None], loaded: LoadedRecipe) -> list[LoransError]:
    """Return the error that a check raises, if any."""
    try:
        check(loaded)
    except LoransError as error:
        return [error]
    return []


def _check_missing(loaded: LoadedRecipe) -> None:
    with locating(loaded):
        missing = [*find_missing(loaded), *_teacher_problems(loaded)]
    if missing:
        raise UsageError(missing)


def _teacher_problems(loaded: LoadedRecipe) -> list[Problem]:
    """Return the problems of the teacher, compared with the base if both are on this machine."""
    if not isinstance(loaded.recipe.objective, Distillation):
        return []
    from lora_ns.answers.teacher import teacher_problems  # with all that opens runs, a tenth of the command's time

    try:
        base = recipe_base_here(loaded.recipe.model, loaded.folder)
    except ModelError:
        base = None  # reported with the base
    found = teacher_problems(loaded.recipe.objective, [loaded.folder, Path.cwd()], base)
    return [problem.located(loaded.where) for problem in found]


def _check_packages(loaded: LoadedRecipe) -> None:
    with locating(loaded):
        packages.check_packages(loaded.recipe)
        packages.check_installed(loaded.recipe.quantization, "quantization.method")
