"""Reading a recipe: text, overrides, tables, rules; every problem at once, each with its line."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lora_ns.credentials import secret_in, secret_told_in, secrets_of
from lora_ns.errors import PlanError, Problem, RecipeError
from lora_ns.reading import (
    LARGEST_RECIPE,
    RefusedError,
    TOMLDecodeError,
    check_depth,
    check_text,
    load_toml,
    parse_toml,
    read_text,
    split_lines,
)
from lora_ns.recipe.explain import Locate, as_toml, explain, key_of, tag_of, untagged
from lora_ns.recipe.filled import Filled, fill
from lora_ns.recipe.generation import Generation
from lora_ns.recipe.positions import comments, line_numbers
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules import SAMPLING_KEYS, findings


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

    def where(self, key: str) -> str:
        """`recipe.toml:13` for the line of a key, of its table, or the file alone."""
        return self.filled.places.get(key) or _where(self.path, self.lines, self.overrides, key)

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from: `--set`, `accelerate_config`, `recipe` or `default`.

        An override of a whole table leaves nothing of what the recipe says in it.
        """
        return "accelerate_config" if key in self.filled.places else _origin(self.lines, self.overrides, key)


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
    _apply(table, overrides)
    notes = _drop_alternatives(table, overrides, lambda key: _where(path, lines, (), key))
    filled = _fill(table, path, lines, overrides, accelerate_text)
    notes += filled.notes

    def locate(key: str) -> str:
        return filled.places.get(key) or _where(path, lines, overrides, key)

    known = [*_secrets(table, path, text, locate), *_secrets_of_file(filled), *filled.problems]
    recipe, problems = _validate(table, locate, known)
    if problems:
        raise RecipeError(sorted(problems, key=lambda problem: (*_file_order(problem, path), _line(problem))))
    return LoadedRecipe(recipe, path, text, tuple(overrides), lines, tuple(notes), filled)


def _secrets(table: dict[str, Any], path: Path, text: str, locate: Locate) -> Iterator[Problem]:
    """What of a recipe is a secret, which would be copied into the run: by its key, or by its looks, comments too."""
    places = set()
    for key, kind, variable in secrets_of(table):
        places.add(locate(key))
        yield Problem(locate(key), f"{key}: {kind}, and a recipe is copied into its run", _instead(variable))
    yield from (problem for problem in _secrets_of_text(path, text) if problem.where not in places)


def _secrets_of_file(filled: Filled) -> Iterator[Problem]:
    """The same of a file of accelerate's, which is copied into the jobs of a run."""
    if filled.file is not None:
        yield from secrets_of_named(filled.file.path, filled.file.text)


def secrets_of_named(path: Path, text: str, table: Any = None) -> Iterator[Problem]:
    """The same of a file that a recipe names and that is copied into its run; `table` is what it has as JSON."""
    lines = split_lines(text)
    places = set()
    for key, kind, variable in secrets_of(table):
        name = f'"{key.rpartition(".")[2]}"'
        number = next((number for number, line in enumerate(lines, start=1) if name in line or secret_in(line)), None)
        places.add(where := f"{path}:{number}" if number else str(path))
        yield Problem(where, f"{key}: {kind}, and the file is copied into the run", _instead(variable))
    for number, line in enumerate(lines, start=1):
        if (found := secret_told_in(line)) and (where := f"{path}:{number}") not in places:
            yield Problem(where, f"{found[0]}, and the file is copied into the run", _instead(found[1]))


def _secrets_of_text(path: Path, text: str) -> Iterator[Problem]:
    """By line: what looks like a secret wherever it stands, and what a comment calls one."""
    told = dict(comments(text))
    for number, line in enumerate(split_lines(text), start=1):
        if found := secret_in(line) or secret_told_in(told.get(number, "")):
            yield Problem(f"{path}:{number}", f"{found[0]}, and a recipe is copied into its run", _instead(found[1]))


def _instead(variable: str) -> str:
    return f"remove it, and set {variable} instead"


def _fill(
    table: dict[str, Any], path: Path, lines: Mapping[str, int], overrides: Sequence[str], text: str | None = None
) -> Filled:
    return fill(
        table,
        path,
        text,
        lambda key: _origin(lines, overrides, key),
        lambda key: _where(path, lines, overrides, key),
    )


def _origin(lines: Mapping[str, int], overrides: Sequence[str], key: str) -> str:
    for override in reversed(overrides):
        names, value = parse_override(override)
        owner = ".".join(names)
        if f"{key}.".startswith(f"{owner}."):
            rest = key.removeprefix(owner).strip(".")
            return "--set" if _has(value, rest.split(".") if rest else []) else "default"
    return "recipe" if key in lines else "default"


def written(path: Path, overrides: Sequence[str], table: str, key: str) -> Any:
    """What a recipe, its overrides or a file of accelerate's say for a key, right or wrong; None if nothing."""
    text = _read(path)
    tables = parse_toml(text, str(path), RecipeError)
    _apply(tables, overrides)
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
    _apply(table, overrides)
    changed, problems = _validate(table, lambda key: _where(Path("--set"), {}, overrides, key))
    if problems:
        raise RecipeError(problems)
    return changed.generation


def parse_override(override: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its key and its value as TOML reads it; what is not TOML is taken as a plain string.

    Raises:
        RecipeError: if there is no `=` or no key.
    """
    if len(override) > _LONGEST_OVERRIDE:
        what = f"`{override[:40]}...` is longer than {_LONGEST_OVERRIDE:,} characters"
        raise RecipeError(Problem("--set", what, "write it in the recipe"))
    key, equals, value = check_text(override, "--set", RecipeError).partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise RecipeError(Problem("--set", f"`{override}`", "write `table.key=value`, such as `training.seed=1`"))
    try:
        return names, load_toml(f"value = {value.strip()}")["value"]
    except TOMLDecodeError:
        return names, value.strip()
    except RefusedError as fault:
        raise RecipeError(Problem("--set", f"{key}: {fault.what}", fault.remedy)) from None


_LONGEST_OVERRIDE = 16 * 1024


def _read(path: Path) -> str:
    return read_text(
        path,
        RecipeError,
        most=LARGEST_RECIPE,
        if_missing="`lorans init NAME` writes one",
        if_folder=f"name the file in it, such as {path / 'recipe.toml'}",
        takes_pipes=True,
    )


def _apply(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Merge the overrides into the tables."""
    for override in overrides:
        names, value = parse_override(override)
        target: Any = table
        for name in names[:-1]:
            target = _below(target, name, override)
            if not isinstance(target, (dict, list)):
                raise RecipeError(Problem("--set", f"`{override}`: `{name}` is a value, not a table"))
        target[_place(target, names[-1], override)] = value
        try:
            check_depth(table)
        except RefusedError as fault:
            key = ".".join(names)
            raise RecipeError(Problem("--set", f"{key}: {fault.what}", fault.remedy)) from None


def _below(target: Any, name: str, override: str) -> Any:
    place = _place(target, name, override)
    return target[place] if isinstance(target, list) else target.setdefault(place, {})


def _place(target: Any, name: str, override: str) -> Any:
    """The key of a table, or the number of a place in a list."""
    if not isinstance(target, list):
        return name
    if not name.isdecimal() or len(name) > 9 or int(name) >= len(target):
        what = f"`{override}`: no place `{name}` in a list of {len(target)}"
        raise RecipeError(Problem("--set", what, "they are numbered from 0"))
    return int(name)


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
    overridden = {_override_key(override) for override in overrides}
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
            recipe = Recipe.model_validate_json(json.dumps(table, default=_no_json))
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                keys = untagged(table, detail["loc"])
                dotted = ".".join(map(str, keys))
                whole = key_of(keys)
                if faulty.isdisjoint({dotted, whole}):
                    if len(problems) < MOST_PROBLEMS:
                        problems.append(explain(table, keys, detail, locate))
                    else:
                        untold += 1
                    faulty.add(dotted)
                    _stand_in(table, keys)
        else:
            problems += [
                Problem(locate(finding.keys[-1]), f"{finding.keys[-1]}: {finding.what}", finding.remedy)
                for finding in findings(recipe)
                if not any(_touches(key, faulty) for key in finding.keys)
            ]
            return recipe, [*dict.fromkeys(problems), *_more(untold)]
    raise RecipeError([*problems, *_more(untold)])


MOST_PROBLEMS = 100
"""Keys that are told to be wrong; finding out what was meant takes a while for each."""


def _more(untold: int) -> list[Problem]:
    return [Problem("", f"and {untold:,} more keys that are wrong")] if untold else []


_STAND_INS: Mapping[str, Any] = {
    "task_name": "task",
    "task_type": "CAUSAL_LM",
    "model": {"name_or_path": "base"},
    "model.name_or_path": "base",
    "peft": {"method": "lora"},
    "peft.method": "lora",
    "dataset": {},
    "training": {"output_dir": "run"},
    "training.output_dir": "run",
}
"""What the required keys are read as once they were found missing or wrong, so that the rest can be judged."""


_STAND_INS_WHOLE: Mapping[str, Any] = {
    **{key: value for key, value in _STAND_INS.items() if "." not in key},
    "dataset": {"path": "rows"},
}
"""A recipe that is well-formed and says nothing."""

_STAND_IN_TAGS = {"peft": "lora", "quantization": "bnb-4bit", "distributed": "ddp"}
"""What a tagged union without a readable tag is read as, so that its other keys can be judged."""


def _stand_in(table: dict[str, Any], keys: Sequence[int | str]) -> None:
    """Replace a faulty key by its stand-in, or take it out."""
    dotted = ".".join(str(key) for key in keys)
    if dotted in _STAND_IN_TAGS and isinstance(table.get(dotted), dict):
        table[dotted][tag_of(dotted)] = _STAND_IN_TAGS[dotted]
        return
    target: Any = table
    for depth, key in enumerate(keys):
        here = ".".join(str(name) for name in keys[: depth + 1])
        below = target[key] if isinstance(key, int) else target.get(key)
        goes_on = isinstance(below, dict) or (depth + 2 < len(keys) and _are_tables(below))
        if here == dotted or not goes_on:
            target.pop(key, None)
            if here in _STAND_INS:
                target[key] = copy.deepcopy(_STAND_INS[here])
            return
        target = below


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)


def _touches(key: str, faulty: set[str]) -> bool:
    return any(key == fault or key.startswith(f"{fault}.") or fault.startswith(f"{key}.") for fault in faulty)


def _has(value: Any, names: Sequence[str]) -> bool:
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def _where(path: Path, lines: Mapping[str, int], overrides: Sequence[str], key: str) -> str:
    if any(f"{key}.".startswith(f"{_override_key(override)}.") for override in overrides):
        return "--set"
    owner = key
    while owner:
        if owner in lines:
            return f"{path}:{lines[owner]}"
        owner = owner.rpartition(".")[0]
    is_only_set = any(_override_key(override).startswith(f"{key.partition('.')[0]}.") for override in overrides)
    return "--set" if is_only_set else str(path)


def _override_key(override: str) -> str:
    return ".".join(name.strip() for name in override.partition("=")[0].split("."))


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
    """Give each problem of the plan that begins with a key its place in the recipe."""
    try:
        yield
    except PlanError as error:
        raise PlanError(
            replace(problem, where=problem.where or loaded.where(problem.what.partition(":")[0]))
            for problem in error.problems
        ) from None
