"""The first level of `lorans validate`: a recipe, what it names, and the packages that it needs; nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.data.named_files import check_named_files, find_missing
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.machine import packages
from lora_ns.recipe.load import LoadedRecipe, load_recipe, locating


@dataclass(frozen=True)
class Checked:
    """A recipe that is right, with what this machine lacks for it."""

    loaded: LoadedRecipe
    warnings: tuple[Problem, ...] = ()
    """Rows, base and packages that are not here, of a run that will be elsewhere."""


def check_recipe(path: Path, overrides: Sequence[str] = (), is_elsewhere: bool = False) -> Checked:
    """Read a recipe and look for what it names, without fetching anything.

    Args:
        path: the recipe.
        overrides: of its keys.
        is_elsewhere: whether another machine will train it, so that what this one lacks is a warning.

    Raises:
        LoransError: with every problem, in the class of the one with the highest exit code.
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
    """What a check raises, if it does."""
    try:
        check(loaded)
    except LoransError as error:
        return [error]
    return []


def _check_missing(loaded: LoadedRecipe) -> None:
    with locating(loaded):
        missing = find_missing(loaded)
    if missing:
        raise UsageError(missing)


def _check_packages(loaded: LoadedRecipe) -> None:
    with locating(loaded):
        packages.check_packages(loaded.recipe)
        packages.check_installed(loaded.recipe.quantization, "quantization.method")
