"""Importing: a configuration of another tool, translated, checked as a recipe, and written."""

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
    """A configuration that was read, and the recipe that trains the same."""

    translation: Translation
    text: str | None
    """The recipe as TOML; None if there is none that would train the same."""
    output: Path | None
    """The file that it was written to."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing was refused."""
        return self.text is not None and not self.translation.refused


def import_config(path: Path, output: Path | None = None, gpus: int | None = None, tool: str | None = None) -> Imported:
    """Read a configuration of another tool, and write its recipe unless it is another training altogether.

    Args:
        path: the configuration.
        output: the recipe to write; nothing is written if absent.
        gpus: the devices that the configuration was written for, where its batches are per device; as
            the file says, or one, if absent.
        tool: the tool, if it is not to be found by the keys.

    Raises:
        UsageError: if the file cannot be read or is of no tool that is known, or if `output` is there already.
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
    return Problem(str(path), "is there already", "name a new file, or remove it")


def _with_files(translation: Translation, output: Path | None) -> Translation:
    """The same with the names of the files that stand beside the recipe; without one to write, they are refused.

    Raises:
        UsageError: if one of them is there already.
    """
    recipe, outcomes = dict(translation.recipe), translation.outcomes
    for key in translation.files:
        if output is None:
            del recipe[key]
            origins = translation.origins[key]
            said, remedy = "it is a file of its own beside the recipe", "`-o FILE` writes both"
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
    """The same with paths that hold from the folder of the recipe, where what they name is here.

    Other tools read paths from the current folder; a recipe looks beside itself first.
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
    """The same without the keys that the recipe's own checks refuse, each refused at its place in the source."""
    while not translation.is_fatal and (problems := _problems(translation, path)):  # each round takes something out
        translation = _with_whole_weights(translation, path, problems) or _without(translation, problems)
    return translation


def _problems(translation: Translation, path: Path) -> tuple[Problem, ...]:
    try:
        load_recipe(path, text=as_toml(translation))
    except RecipeError as error:
        return error.problems
    return ()


def _with_whole_weights(translation: Translation, path: Path, problems: tuple[Problem, ...]) -> Translation | None:
    """The same without `[distributed]`, if that is what something else does not go with.

    A strategy divides the memory and changes no result, so that it gives way to what is learned.
    """
    keys = [key for key in translation.recipe if key.startswith("distributed.")]
    origins = tuple(origin for key in keys for origin in translation.origins.get(key, ()))
    kept = {key: value for key, value in translation.recipe.items() if key not in keys}
    lighter = replace(translation, recipe=kept)
    if not keys or len(_problems(lighter, path)) >= len(problems):
        return None
    said = f"left out, as it changes no result: `{problems[0].key}`: {problems[0].what}"
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
    """A problem of a recipe key that comes of nothing in the source."""
    if problem.what != "required":
        return Problem(where, problem.what, problem.remedy, key=problem.key)
    return Problem(where, f"nothing says what `{problem.key}` is to be", "mend what it comes from: see above")


def _is_below(outcome: Outcome, keys: tuple[str, ...]) -> bool:
    """Whether a source key is one of these, or in one of them."""
    return f"{outcome.key}.".startswith(tuple(f"{key}." for key in keys))


def _refused(outcome: Outcome, key: str, problem: Problem) -> Outcome:
    if outcome.fate == "refused":
        return outcome
    return replace(outcome, fate="refused", said=f"`{key}`: {problem.what}", remedy=problem.remedy, recipe=())


def _owners(key: str) -> Iterator[str]:
    """A dotted key and the tables around it."""
    while key:
        yield key
        key = key.rpartition(".")[0]
