"""The runs below a folder as a table: filtered by any value of their overview or recipe, and sorted."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.files.reading import is_folder
from lora_ns.run.find import find_runs
from lora_ns.run.overview import Overview, overview


@dataclass(frozen=True)
class Listing:
    """The runs that were found, in order, and notes about folders and files that could not be read."""

    folder: str
    runs: tuple[Overview, ...]
    found: int
    """Number of runs before filtering."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """A condition on a value of a run, such as `status=finished` or `training.learning_rate>1e-4`."""

    key: str
    sign: str
    value: str

    def holds(self, run: Overview) -> bool:
        """Return whether it holds for a run. A run without the value fulfils only `!=`."""
        found = values_of(run, self.key)
        if self.sign == "!=":
            return not any(_is(one, self.value) for one in found)
        if self.sign == "=":
            return any(_is(one, self.value) for one in found)
        return any(_is_ordered(one, self.sign, self.value) for one in found)


_CONDITION = re.compile(r"(?P<key>[\w.]+?)\s*(?P<sign>!=|>=|<=|=|>|<)\s*(?P<value>.*)", re.DOTALL)


_ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


COLUMNS = tuple(one.name for one in fields(Overview) if one.name not in {"manifest", "notes"})
"""Names of the values of an overview."""


_OTHER_NAMES = {"name": "run", "path": "run", "age": "created", "task": "task_name", "model": "base", "metric": "best"}


def list_runs(folder: Path, sort: str = "created", conditions: Sequence[str] = ()) -> Listing:
    """List the runs in a folder and below it.

    Args:
        folder: where to look.
        sort: name of a column or a dotted key of the recipe; with `-` before it in descending order.
        conditions: `key=value`, or with `!=`, `<`, `<=`, `>`, `>=`. `*` in a text stands for any characters.

    Raises:
        UsageError: if there is no such folder, a condition is malformed, or no run has a key.
    """
    if not is_folder(folder):
        raise UsageError(Problem(str(folder), "no such folder", "name a folder with runs in it or below it"))
    wanted = [parse_condition(text) for text in conditions]
    notes: list[str] = []
    runs = [overview(path) for path in find_runs(folder, notes.append)]
    for key, option in ((sort.removeprefix("-"), "--sort"), *((one.key, "--filter") for one in wanted)):
        check_key(key, runs, option)
    chosen = [run for run in runs if all(one.holds(run) for one in wanted)]
    notes += [f"{run.run}: {note}" for run in chosen for note in run.notes if run.status == "damaged"]
    return Listing(str(folder), tuple(sorted_runs(chosen, sort)), len(runs), tuple(notes))


def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises `UsageError`."""
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise UsageError(Problem("--filter", f"`{text}`", "write `key=value`, such as `status=finished`"))
    return Condition(found["key"], found["sign"], found["value"].strip())


def values_of(run: Overview, key: str) -> list[Any]:
    """Return the values of a key in a run: of a column, of a dotted key of the recipe, or of every key of that name."""
    key = _OTHER_NAMES.get(key, key)
    if key == "run":
        return [run.run, Path(run.run).name]
    if key == "best":
        return [run.best.value] if run.best else []
    if key in COLUMNS or key == "progress":
        found = getattr(run, key)
        return [] if found is None else [found]
    recipe = flat(run.manifest.get("recipe"))
    return [recipe[key]] if key in recipe else [recipe[name] for name in recipe if name.endswith(f".{key}")]


def flat(table: object, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted keys."""
    if not isinstance(table, Mapping):
        return {}
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def check_key(key: str, runs: Iterable[Overview], option: str) -> None:
    """Check that a key is a column, or is in the recipe of one of the runs. Raises `UsageError`."""
    if key in _OTHER_NAMES or key in COLUMNS or key == "progress":
        return
    listed = list(runs)
    if not listed or any(values_of(run, key) for run in listed):
        return
    known = [*COLUMNS, *dict.fromkeys(name for run in listed for name in flat(run.manifest.get("recipe")))]
    remedy = did_you_mean(key, known, beside=f"columns are {', '.join(COLUMNS)}; or write a key of the recipe")
    raise UsageError(Problem(option, f"no run has a value `{key}`", remedy))


def sorted_runs(runs: Iterable[Overview], sort: str) -> list[Overview]:
    """Sort runs by a key; those without the value come last. Runs with equal values are in the order of their names."""
    key, listed = sort.removeprefix("-"), sorted(runs, key=lambda run: run.run)
    has = [(found[0], run) for run in listed if (found := values_of(run, key))]
    without = [run for run in listed if not values_of(run, key)]
    ordered = sorted(has, key=lambda pair: _sort_key(pair[0]), reverse=sort.startswith("-"))
    return [*(run for _, run in ordered), *without]


def _sort_key(value: Any) -> tuple[bool, float, str]:
    """Return a key that orders numbers before texts."""
    number = _number(value)
    return number is None, number or 0.0, "" if number is not None else str(value).casefold()


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _is(found: Any, value: str) -> bool:
    """Return whether a value is the one that was written, as a number, a word of TOML or a text with `*` in it."""
    if isinstance(found, (list, tuple)):
        return any(_is(one, value) for one in found) or str(list(found)).casefold() == value.casefold()
    one, other = _number(found), _number(value)
    if one is not None and other is not None:
        return one == other
    return fnmatch.fnmatchcase(_written(found).casefold(), value.strip("\"'").casefold())


def _written(value: Any) -> str:
    return {True: "true", False: "false", None: "none"}.get(value, str(value)) if not isinstance(value, str) else value


def _is_ordered(found: Any, sign: str, value: str) -> bool:
    one, other = _number(found), _number(value)
    if one is not None and other is not None:
        return _ORDERS[sign](one, other)
    is_text = isinstance(found, str) and one is None and other is None  # times of one form are ordered as text
    return is_text and {"<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[sign]
