"""Load a recipe: parse it, apply overrides, validate tables and rules, and report all problems with their lines."""

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
from lora_ns.recipe.earlier_run import Continued, continue_run
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
from lora_ns.recipe.tagged_lists import TAG_PLACE, tagged_list


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe with its text and its path, which locate its keys and the files that it names."""

    recipe: Recipe
    path: Path
    text: str
    overrides: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Keys that an override replaced, and other notes for the user."""
    filled: Filled = field(default_factory=Filled)
    """Keys that an accelerate configuration file filled."""
    continued: Continued = field(default_factory=Continued)
    """Keys of `[peft]` that come with the adapter of an earlier run."""

    @property
    def folder(self) -> Path:
        """The folder of the recipe. Relative paths in the recipe are looked up here first."""
        return self.path.parent

    def where(self, key: str) -> str:
        """Return the place of a key, such as `recipe.toml:13`: its line, that of its table, or the file."""
        return self.filled.places.get(key) or _where(self.path, self.lines, self.overrides, key)

    def origin(self, key: str) -> str:
        """Return the origin of a dotted key's value.

        It is `--set`, `accelerate_config`, `init_adapter`, `recipe` or `default`. An override of a whole table replaces
        all keys that the recipe has in it.
        """
        if key in self.continued.keys:
            return "init_adapter"
        return "accelerate_config" if key in self.filled.places else origin_of(self.lines, self.overrides, key)


def load_recipe(
    path: Path, overrides: Sequence[str] = (), text: str | None = None, accelerate_text: str | None = None
) -> LoadedRecipe:
    """Load a recipe, apply overrides and validate it.

    Args:
        path: the TOML file.
        overrides: `table.key=value` with TOML values, merged into the tables before any check.
        text: recorded content of the file, to use instead of reading it.
        accelerate_text: recorded content of the file that `distributed.accelerate_config` names.

    Raises:
        RecipeError: with every problem, in the order of the lines.
    """
    text = _read(path) if text is None else text
    table = parse_toml(text, str(path), RecipeError)
    lines = line_numbers(text)
    apply_overrides(table, overrides)
    notes = _drop_alternatives(table, overrides, lambda key: _where(path, lines, (), key))
    filled = _fill(table, path, lines, overrides, accelerate_text)
    notes += filled.notes
    continued = continue_run(table, path, lambda key: _where(path, lines, overrides, key))

    def locate(key: str) -> str:
        return filled.places.get(key) or _where(path, lines, overrides, key)

    known = [*find_secrets(table, path, text, locate), *secrets_of_file(filled), *filled.problems, *continued.problems]
    recipe, problems = _validate(table, locate, known)
    if problems:
        raise RecipeError(sorted(problems, key=lambda problem: (*_file_order(problem, path), _line(problem))))
    return LoadedRecipe(recipe, path, text, tuple(overrides), lines, tuple(notes), filled, continued)


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
    """Return the value of a key in the recipe, its overrides or its accelerate file, valid or not; None if absent."""
    text = _read(path)
    tables = parse_toml(text, str(path), RecipeError)
    apply_overrides(tables, overrides)
    _fill(tables, path, line_numbers(text), overrides)
    return tables[table].get(key) if isinstance(tables.get(table), dict) else None


def override_generation(recipe: Recipe, overrides: Sequence[str]) -> Generation:
    """Return the `[generation]` table of a trained recipe with overrides; no other table can change after training.

    Raises:
        RecipeError: with every problem, or if an override sets a key of another table.
    """
    for override in overrides:
        if parse_override(override)[0][0] != "generation":
            raise RecipeError(
                Problem("--set", f"`{override}`: a trained run cannot be changed", "set only `generation.` keys")
            )
    # Defaults are left out: a rule would treat them as written in the recipe.
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
        if_missing="create one with `lorans init NAME`",
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
"""Groups of alternative keys. An override of one replaces the others in the recipe."""


def _drop_alternatives(table: dict[str, Any], overrides: Sequence[str], where: Callable[[str], str]) -> list[str]:
    """Remove keys that an override replaces, and return a note on each."""
    overridden = {override_key(override) for override in overrides}
    notes = []
    for group in ALTERNATIVES:
        given = [key for key in group if key in overridden]
        for key in group if given else ():
            owner, _, name = key.partition(".")
            if key not in overridden and isinstance(table.get(owner), dict) and name in table[owner]:
                value = table[owner].pop(name)
                shown = f"`{key}`" if isinstance(value, (list, dict)) else f"`{key} = {as_toml(value)}`"
                notes.append(f"{where(key)}: {shown} has no effect: `--set {given[0]}` replaces it")
    return notes


def _validate(table: dict[str, Any], locate: Locate, known: Sequence[Problem] = ()) -> tuple[Recipe, list[Problem]]:
    """Return the recipe, and the known problems followed by those of its keys and rules.

    An invalid key is removed and the rest is read again, so that the rules can check the other keys.
    """
    problems: list[Problem] = list(known)
    faulty: set[str] = set()
    untold = 0
    before: dict[str, Any] | None = None  # so that an empty recipe is read once, too
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
                        problems.append(explain(before, keys, detail, locate))
                    else:
                        untold += 1
                    faulty.add(dotted)
                    if tagged_list(keys):  # the whole table is replaced, so no rule can speak of it
                        faulty.add(".".join(map(str, keys[:TAG_PLACE])))
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
    """Keys that cannot be read, each with pydantic's error details."""

    def __init__(self, found: Sequence[tuple[list[int | str], Any]]) -> None:
        super().__init__()
        self.found = found


def _read_tables(table: dict[str, Any]) -> Recipe:
    """Validate TOML tables as a recipe. Raises `_WrongKeysError`."""
    wrong: list[tuple[list[int | str], Any]] = [(keys, {"type": "extra_forbidden"}) for keys in unknown_to_toml(table)]
    for name, kind, fields in other_objectives(table):
        wrong += [(untagged(table, [name, *one["loc"]]), one) for one in _parsed(kind, fields)[1]]
    recipe, faults = _parsed(Recipe, fields_of(table))
    wrong += [(untagged(table, location_of(table, one["loc"])), one) for one in faults]
    wrong = [(keys, one) for keys, one in wrong if one["type"] != "too_short" or not _is_inside(keys, wrong)]
    if wrong or recipe is None:
        raise _WrongKeysError(wrong)
    return recipe


def _is_inside(keys: list[int | str], wrong: Sequence[tuple[list[int | str], Any]]) -> bool:
    """Return whether an item of a list is invalid, which pydantic then does not count."""
    return any(len(other) > len(keys) and other[: len(keys)] == keys for other, _ in wrong)


T = TypeVar("T", bound=BaseModel)


def _parsed(kind: type[T], fields: Any) -> tuple[T | None, list[Any]]:
    """Return an instance with these fields, or None and pydantic's error details."""
    try:
        return kind.model_validate_json(json.dumps(fields, default=_no_json)), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


MOST_PROBLEMS = 100
"""Maximum number of invalid keys that are reported; finding a suggestion for each takes time."""


def _more(untold: int) -> list[Problem]:
    return [Problem("", f"and {untold:,} more invalid keys")] if untold else []


_STAND_INS_WHOLE: Mapping[str, Any] = {
    **{key: value for key, value in STAND_INS.items() if "." not in key},
    "dataset": {"path": "rows"},
}
"""The tables of a minimal valid recipe."""


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
    """Replace a date or a time by a table that no key accepts, as no key accepts dates."""
    return {"": str(value)}


def _line(problem: Problem) -> int:
    number = problem.where.rpartition(":")[2]
    return int(number) if number.isdigit() else 0


def _file_order(problem: Problem, path: Path) -> tuple[bool, bool]:
    """Return a sort key: the recipe first, then other files, then problems without a place."""
    file, colon, _ = problem.where.rpartition(":")
    return not problem.where, bool(colon) and file != str(path)


@contextlib.contextmanager
def locating(loaded: LoadedRecipe) -> Iterator[None]:
    """Add the place in the recipe to every problem that has a key."""
    try:
        yield
    except InterruptedRunError:
        raise
    except LoransError as error:
        found = [problem.located(loaded.where) for problem in error.problems]
        if list(error.problems) == found:
            raise
        raise type(error)(found) from error.__cause__
