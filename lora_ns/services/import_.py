"""Import of another tool's configuration: translate it, check it as a recipe, and write it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lora_ns.errors import Problem, RecipeError, UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import exists
from lora_ns.importers.draft import Outcome, Translation
from lora_ns.importers.registry import importer_for
from lora_ns.importers.source import read_source
from lora_ns.importers.written import as_toml
from lora_ns.recipe.load import load_recipe


@dataclass(frozen=True)
class Imported:
    """A configuration of another tool, and the equivalent recipe."""

    translation: Translation
    text: str | None
    """The recipe as TOML; None if no recipe is equivalent."""
    output: Path | None
    """The file to which the recipe was written."""

    @property
    def is_whole(self) -> bool:
        """True if no key was refused."""
        return self.text is not None and not self.translation.refused


def import_config(path: Path, output: Path | None = None, gpus: int | None = None, tool: str | None = None) -> Imported:
    """Read a configuration of another tool, and write the equivalent recipe if there is one.

    Args:
        path: the configuration.
        output: the recipe to write; None to write nothing.
        gpus: number of devices that the configuration was written for, if its batches are per device. Default: the
            number that the file names, or 1.
        tool: name of the tool; None to detect it from the keys.

    Raises:
        UsageError: if the file cannot be read or belongs to no supported tool, or if `output` already exists.
    """
    if output is not None and exists(output):
        raise UsageError(_is_there(output))
    source = read_source(path)
    translation = importer_for(source, tool).translate(source, gpus or source.gpus or 1)
    translation = _with_files(_placed(translation, output), output)
    translation = translation if translation.is_fatal else _checked(translation, output or Path("recipe.toml"))
    if translation.is_fatal:
        return Imported(translation, None, None)
    text = as_toml(translation)
    if output is not None:
        for key, content in translation.files.items():
            if key in translation.recipe:
                write_atomic(output.parent / translation.recipe[key], content)
        write_atomic(output, text)
    return Imported(translation, text, output)


def _is_there(path: Path) -> Problem:
    return Problem(str(path), "already exists", "choose a new file, or remove it")


def _with_files(translation: Translation, output: Path | None) -> Translation:
    """Name the files to write beside the recipe; refuse their keys if no recipe is written.

    Raises:
        UsageError: if one of them already exists.
    """
    recipe, outcomes = dict(translation.recipe), translation.outcomes
    for key in translation.files:
        if output is None:
            del recipe[key]
            origins = translation.origins[key]
            said, remedy = "it becomes a separate file beside the recipe", "use `-o FILE` to write both"
            outcomes = tuple(
                replace(one, fate="refused", said=said, remedy=remedy, recipe=()) if _is_below(one, origins) else one
                for one in outcomes
            )
        else:
            recipe[key] = f"{output.stem}{recipe[key]}"
            if exists(beside := output.parent / recipe[key]):
                raise UsageError(_is_there(beside))
    return replace(translation, recipe=recipe, outcomes=outcomes)


def _placed(translation: Translation, output: Path | None) -> Translation:
    """Make paths that exist relative to the folder of the recipe.

    Other tools resolve paths from the current folder; a recipe resolves them from its own folder first.
    """
    folder = (output or Path("recipe.toml")).parent
    recipe = dict(translation.recipe)
    for key in translation.paths:
        recipe[key] = _moved(recipe[key], folder)
    return replace(translation, recipe=recipe)


def _moved(value: object, folder: Path) -> object:
    if isinstance(value, list):
        return [_moved(part, folder) for part in value]
    if isinstance(value, dict):
        return {name: _moved(part, folder) if name == "path" else part for name, part in value.items()}
    if not isinstance(value, str) or Path(value).is_absolute() or not exists(Path(value)):
        return value
    return os.path.relpath(value, folder)


def _checked(translation: Translation, path: Path) -> Translation:
    """Check the recipe, and refuse the source keys of everything that is invalid."""
    while not translation.is_fatal and (problems := _problems(translation, path)):  # each round removes something
        translation = _with_whole_weights(translation, path, problems) or _without(translation, problems)
    return translation


def _problems(translation: Translation, path: Path) -> tuple[Problem, ...]:
    try:
        load_recipe(path, text=as_toml(translation))
    except RecipeError as error:
        return error.problems
    return ()


def _with_whole_weights(translation: Translation, path: Path, problems: tuple[Problem, ...]) -> Translation | None:
    """Remove `[distributed]`, if that resolves a conflict; None if it does not.

    A strategy distributes memory and does not change results, so it yields to settings that do.
    """
    keys = [key for key in translation.recipe if key.startswith("distributed.")]
    origins = tuple(origin for key in keys for origin in translation.origins.get(key, ()))
    kept = {key: value for key, value in translation.recipe.items() if key not in keys}
    lighter = replace(translation, recipe=kept)
    if not keys or len(_problems(lighter, path)) >= len(problems):
        return None
    said = f"left out, because it does not change results: `{problems[0].key}`: {problems[0].what}"
    outcomes = tuple(
        replace(outcome, fate="unused", said=said, recipe=())
        if outcome.fate == "mapped" and _is_below(outcome, origins)
        else outcome
        for outcome in translation.outcomes
    )
    return replace(lighter, outcomes=outcomes)


def _without(translation: Translation, problems: tuple[Problem, ...]) -> Translation:
    recipe, outcomes = dict(translation.recipe), list(translation.outcomes)
    fatal, notes = list(translation.problems), list(translation.notes)
    where = str(translation.source.path)
    for problem in problems:
        key = next((name for name in _owners(problem.key or problem.place) if name in translation.recipe), None)
        if key is None:
            fatal.append(_missing(where, problem))
            continue
        recipe.pop(key, None)
        origins = translation.origins.get(key, ())
        outcomes = [_refused(outcome, key, problem) if _is_below(outcome, origins) else outcome for outcome in outcomes]
        if not origins:
            notes.append(f"`{key}` is left out: {problem.what}")
    filled = tuple(one for one in translation.filled if one.recipe in recipe)
    return replace(
        translation,
        recipe=recipe,
        outcomes=tuple(outcomes),
        filled=filled,
        notes=tuple(notes),
        problems=tuple(fatal),
    )


def _missing(where: str, problem: Problem) -> Problem:
    """Report a problem of a recipe key that has no source key."""
    if problem.what != "required":
        return Problem(where, problem.what, problem.remedy, key=problem.key)
    return Problem(where, f"the recipe requires `{problem.key}`", "correct the key that it comes from; see above")


def _is_below(outcome: Outcome, keys: tuple[str, ...]) -> bool:
    """True if a source key is one of these keys, or in one of them."""
    return f"{outcome.key}.".startswith(tuple(f"{key}." for key in keys))


def _refused(outcome: Outcome, key: str, problem: Problem) -> Outcome:
    if outcome.fate == "refused":
        return outcome
    return replace(outcome, fate="refused", said=f"`{key}`: {problem.what}", remedy=problem.remedy, recipe=())


def _owners(key: str) -> Iterator[str]:
    """Yield a dotted key and the tables that contain it."""
    while key:
        yield key
        key = key.rpartition(".")[0]
