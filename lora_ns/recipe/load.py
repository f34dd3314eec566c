"""Reading a recipe: text, overrides, tables, rules; every problem at once, each with its line."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from lora_ns.errors import InterruptedRunError, LoransError, Problem, RecipeError
from lora_ns.files.reading import LARGEST_RECIPE, parse_toml, read_text
from lora_ns.recipe.accelerate_merge import Filled, fill
from lora_ns.recipe.explain import Locate, explain, key_of, untagged
from lora_ns.recipe.generation import Generation
from lora_ns.recipe.keys import as_toml
from lora_ns.recipe.lines import line_numbers
from lora_ns.recipe.objective_tables import fields_of, location_of, other_objectives, unknown_to_toml, without_effect
from lora_ns.recipe.overrides import apply_overrides, origin_of, override_key, parse_override
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules import findings
from lora_ns.recipe.rules.evaluation import SAMPLING_KEYS
from lora_ns.recipe.secrets import find_secrets, secrets_of_file
from lora_ns.recipe.stand_ins import STAND_INS, put_stand_in


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with what is needed to point into its text and to find the files that it names."""

    recipe: Recipe
    path: Path
    text: str
    overrides: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What of the text an override took the place of, and what else is to be told."""
    filled: Filled = field(default_factory=Filled)
    """What a file of accelerate's says in the recipe's place."""

    @property
    def folder(self) -> Path:
        """Where the recipe is: relative paths in it are looked for there first."""
        return self.path.parent

    def where(self, key: str) -> str:
        """`recipe.toml:13` for the line of a key, of its table, or the file alone."""
        return self.filled.places.get(key) or _where(self.path, self.lines, self.overrides, key)

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from: `--set`, `accelerate_config`, `recipe` or `default`.

        An override of a whole table leaves nothing of what the recipe says in it.
        """
        return "accelerate_config" if key in self.filled.places else origin_of(self.lines, self.overrides, key)


def load_recipe(
    path: Path, overrides: Sequence[str] = (), text: str | None = None, accelerate_text: str | None = None
) -> LoadedRecipe:
    """Read, override and check a recipe.

    Args:
        path: the TOML file.
        overrides: `table.key=value` each, the value as in TOML; they are merged into the tables before any check.
        text: what the file said once, if not what it says now.
        accelerate_text: the same of the file that `distributed.accelerate_config` names.

    Raises:
        RecipeError: with every problem found, in the order of the lines.
    """
    text = _read(path) if text is None else text
    table = parse_toml(text, str(path), RecipeError)
    lines = line_numbers(text)
    apply_overrides(table, overrides)
    notes = _drop_alternatives(table, overrides, lambda key: _where(path, lines, (), key))
    filled = _fill(table, path, lines, overrides, accelerate_text)
    notes += filled.notes

    def locate(key: str) -> str:
        return filled.places.get(key) or _where(path, lines, overrides, key)

    known = [*find_secrets(table, path, text, locate), *secrets_of_file(filled), *filled.problems]
    recipe, problems = _validate(table, locate, known)
    if problems:
        raise RecipeError(sorted(problems, key=lambda problem: (*_file_order(problem, path), _line(problem))))
    return LoadedRecipe(recipe, path, text, tuple(overrides), lines, tuple(notes), filled)


def _fill(
    table: dict[str, Any], path: Path, lines: Mapping[str, int], overrides: Sequence[str], text: str | None = None
) -> Filled:
    return fill(
        table,
        path,
        text,
        lambda key: origin_of(lines, overrides, key),
        lambda key: _where(path, lines, overrides, key),
    )


def written(path: Path, overrides: Sequence[str], table: str, key: str) -> Any:
    """What a recipe, its overrides or a file of accelerate's say for a key, right or wrong; None if nothing."""
    text = _read(path)
    tables = parse_toml(text, str(path), RecipeError)
    apply_overrides(tables, overrides)
    _fill(tables, path, line_numbers(text), overrides)
    return tables[table].get(key) if isinstance(tables.get(table), dict) else None


def override_generation(recipe: Recipe, overrides: Sequence[str]) -> Generation:
    """The `[generation]` of a recipe that was trained, with other values: all that can still be changed of it.

    Raises:
        RecipeError: with every problem, or because a key of another table is named.
    """
    for override in overrides:
        if parse_override(override)[0][0] != "generation":
            raise RecipeError(
                Problem("--set", f"`{override}`: a trained run cannot be changed", "only `generation.` keys")
            )
    # What is left at its default is not written: a rule would take it for something that was asked for.
    trained = recipe.generation.model_dump(mode="json", exclude_defaults=True)
    if not recipe.generation.do_sample:
        trained = {key: value for key, value in trained.items() if key not in SAMPLING_KEYS}
    table = {**copy.deepcopy(_STAND_INS_WHOLE), "generation": trained}
    apply_overrides(table, overrides)
    changed, problems = _validate(table, lambda key: _where(Path("--set"), {}, overrides, key))
    if problems:
        raise RecipeError(problems)
    return changed.generation


def _read(path: Path) -> str:
    return read_text(
        path,
        RecipeError,
        most=LARGEST_RECIPE,
        if_missing="`lorans init NAME` writes one",
        if_folder=f"name the file in it, such as {path / 'recipe.toml'}",
        takes_pipes=True,
    )


ALTERNATIVES = (
    ("dataset.name", "dataset.path", "dataset.sources"),
    ("dataset.eval_path", "dataset.eval_split", "dataset.eval_fraction"),
    ("training.max_steps", "training.num_train_epochs"),
    ("training.global_batch_size", "training.gradient_accumulation_steps"),
    ("training.warmup_steps", "training.warmup_ratio"),
)
"""Keys that say the same in different ways: an override of one takes the place of the others in the recipe."""


def _drop_alternatives(table: dict[str, Any], overrides: Sequence[str], where: Callable[[str], str]) -> list[str]:
    """Take out what an override takes the place of, and say so."""
    overridden = {override_key(override) for override in overrides}
    notes = []
    for group in ALTERNATIVES:
        given = [key for key in group if key in overridden]
        for key in group if given else ():
            owner, _, name = key.partition(".")
            if key not in overridden and isinstance(table.get(owner), dict) and name in table[owner]:
                value = table[owner].pop(name)
                shown = f"`{key}`" if isinstance(value, (list, dict)) else f"`{key} = {as_toml(value)}`"
                notes.append(f"{where(key)}: {shown} has no effect: `--set {given[0]}` takes its place")
    return notes


def _validate(table: dict[str, Any], locate: Locate, known: Sequence[Problem] = ()) -> tuple[Recipe, list[Problem]]:
    """The recipe, and the problems of its keys and of its rules after those that are known.

    A key that is wrong is taken out and the rest is read again, so that the rules can speak about the others.
    """
    problems: list[Problem] = list(known)
    faulty: set[str] = set()
    untold = 0
    before: dict[str, Any] | None = None  # an empty recipe is read once, too
    while table != before:
        before = copy.deepcopy(table)
        try:
            recipe = _read_tables(table)
        except _WrongKeysError as error:
            for keys, detail in error.found:
                dotted = ".".join(map(str, keys))
                whole = key_of(keys)
                if faulty.isdisjoint({dotted, whole}):
                    if len(problems) < MOST_PROBLEMS:
                        problems.append(explain(table, keys, detail, locate))
                    else:
                        untold += 1
                    faulty.add(dotted)
                    put_stand_in(table, keys)
        else:
            problems += [
                Problem(locate(finding.keys[-1]), finding.what, finding.remedy, key=finding.keys[-1])
                for finding in (*without_effect(table), *findings(recipe))
                if not any(_touches(key, faulty) for key in finding.keys)
            ]
            return recipe, [*dict.fromkeys(problems), *_more(untold)]
    raise RecipeError([*problems, *_more(untold)])


class _WrongKeysError(Exception):
    """Keys that cannot be read, each with what pydantic says of it."""

    def __init__(self, found: Sequence[tuple[list[int | str], Any]]) -> None:
        super().__init__()
        self.found = found


def _read_tables(table: dict[str, Any]) -> Recipe:
    """The recipe of TOML tables. Raises `_WrongKeysError`."""
    wrong: list[tuple[list[int | str], Any]] = [(keys, {"type": "extra_forbidden"}) for keys in unknown_to_toml(table)]
    for name, kind, fields in other_objectives(table):
        wrong += [(untagged(table, [name, *one["loc"]]), one) for one in _parsed(kind, fields)[1]]
    recipe, faults = _parsed(Recipe, fields_of(table))
    wrong += [(untagged(table, location_of(table, one["loc"])), one) for one in faults]
    if wrong or recipe is None:
        raise _WrongKeysError(wrong)
    return recipe


T = TypeVar("T", bound=BaseModel)


def _parsed(kind: type[T], fields: Any) -> tuple[T | None, list[Any]]:
    """Values as a class reads them, or what pydantic says of those that it does not take."""
    try:
        return kind.model_validate_json(json.dumps(fields, default=_no_json)), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


MOST_PROBLEMS = 100
"""Keys that are told to be wrong; finding out what was meant takes a while for each."""


def _more(untold: int) -> list[Problem]:
    return [Problem("", f"and {untold:,} more keys that are wrong")] if untold else []


_STAND_INS_WHOLE: Mapping[str, Any] = {
    **{key: value for key, value in STAND_INS.items() if "." not in key},
    "dataset": {"path": "rows"},
}
"""A recipe that is well-formed and says nothing."""


def _touches(key: str, faulty: set[str]) -> bool:
    return any(key == fault or key.startswith(f"{fault}.") or fault.startswith(f"{key}.") for fault in faulty)


def _where(path: Path, lines: Mapping[str, int], overrides: Sequence[str], key: str) -> str:
    if any(f"{key}.".startswith(f"{override_key(override)}.") for override in overrides):
        return "--set"
    owner = key
    while owner:
        if owner in lines:
            return f"{path}:{lines[owner]}"
        owner = owner.rpartition(".")[0]
    is_only_set = any(override_key(override).startswith(f"{key.partition('.')[0]}.") for override in overrides)
    return "--set" if is_only_set else str(path)


def _no_json(value: object) -> dict[str, str]:
    """A date or a time, which no key takes, as something that no key takes."""
    return {"": str(value)}


def _line(problem: Problem) -> int:
    number = problem.where.rpartition(":")[2]
    return int(number) if number.isdigit() else 0


def _file_order(problem: Problem, path: Path) -> tuple[bool, bool]:
    """The recipe first, then other files, then what has no place."""
    file, colon, _ = problem.where.rpartition(":")
    return not problem.where, bool(colon) and file != str(path)


@contextlib.contextmanager
def locating(loaded: LoadedRecipe) -> Iterator[None]:
    """Give each problem that has a key its place in the recipe."""
    try:
        yield
    except InterruptedRunError:
        raise
    except LoransError as error:
        found = [problem.located(loaded.where) for problem in error.problems]
        if list(error.problems) == found:
            raise
        raise type(error)(found) from error.__cause__
