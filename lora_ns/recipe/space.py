"""The keys that a sweep varies, and the values that it tries: lists and ranges after `--set KEY=`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lora_ns.errors import Problem, RecipeError
from lora_ns.recipe.keys import as_toml
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.recipe.overrides import override_key, parse_override

Kind = Literal["log", "uniform", "int"]

_KINDS: tuple[Kind, ...] = ("log", "uniform", "int")

_RANGE = re.compile(r"\s*(log|uniform|int)\s*\((.*)\)\s*", re.DOTALL)

_FIXED = ("training.output_dir", "tracking")
"""Keys that do not change what is learned."""


@dataclass(frozen=True)
class Choices:
    """Values that are tried as they are."""

    texts: tuple[str, ...]
    """The values as TOML spells them."""

    def grid(self, _points: int) -> tuple[str, ...]:
        """All values."""
        return self.texts

    def ends(self) -> tuple[str, ...]:
        """The values to check before anything trains."""
        return self.texts


@dataclass(frozen=True)
class Range:
    """All numbers between two ends, drawn evenly (`uniform`, `int`) or evenly by their logarithm (`log`)."""

    kind: Kind
    low: float
    high: float

    def text(self, value: float) -> str:
        """Spell a value as TOML does, a number to four digits."""
        return str(round(value)) if self.kind == "int" else as_toml(float(f"{value:.4g}"))

    def grid(self, points: int) -> tuple[str, ...]:
        """This many values at equal distances, both ends included."""
        if points == 1:
            middle = math.sqrt(self.low * self.high) if self.kind == "log" else (self.low + self.high) / 2
            return (self.text(middle),)
        parts = [place / (points - 1) for place in range(points)]
        if self.kind == "log":
            values = [self.low * (self.high / self.low) ** part for part in parts]
        else:
            values = [self.low + (self.high - self.low) * part for part in parts]
        return tuple(dict.fromkeys(map(self.text, values)))

    def ends(self) -> tuple[str, ...]:
        """Both ends."""
        return self.text(self.low), self.text(self.high)


@dataclass(frozen=True)
class Key:
    """A dotted key with its values."""

    name: str
    values: Choices | Range

    def override(self, text: str) -> str:
        """The override that sets the key to a value."""
        return f"{self.name}={text}"


@dataclass(frozen=True)
class Space:
    """The keys of a sweep, and the overrides that all of its trials share."""

    keys: tuple[Key, ...]
    fixed: tuple[str, ...] = ()

    @property
    def is_listed(self) -> bool:
        """True if every key has a list, so that there is a grid of all values."""
        return all(isinstance(key.values, Choices) for key in self.keys)

    def overrides(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The overrides of a trial with these values, in the order of the keys."""
        return (*self.fixed, *(key.override(text) for key, text in zip(self.keys, texts, strict=True)))

    def listed(self, trials: int) -> Space:
        """The same keys with lists alone: ranges become as many points as fit into the number of trials."""
        ranges = sum(isinstance(key.values, Range) for key in self.keys)
        others = math.prod(len(key.values.texts) for key in self.keys if isinstance(key.values, Choices))
        points = max(1, math.floor((trials / others) ** (1 / max(1, ranges)) + 1e-9))
        return replace(self, keys=tuple(Key(key.name, Choices(key.values.grid(points))) for key in self.keys))

    def combinations(self) -> list[tuple[str, ...]]:
        """All combinations of values; lists alone have them."""
        return list(itertools.product(*(key.values.ends() for key in self.keys)))


def read_space(overrides: Sequence[str]) -> Space:
    """Read `--set` values: `8,16,32`, `log(1e-5,1e-3)`, `uniform(0,0.1)` and `int(1,4)` are varied, others are fixed.

    Raises:
        RecipeError: if a value cannot be read, nothing is varied, or a key is varied that changes no result.
    """
    keys: list[Key] = []
    fixed: list[str] = []
    problems: list[Problem] = []
    for override in overrides:
        name, value = override_key(override), override.partition("=")[2]
        try:
            parse_override(override)
            values = _range(name, value) or _choices(value)
        except RecipeError as error:
            problems += error.problems
            continue
        if values is None:
            fixed.append(override)
        elif name in _FIXED or name.partition(".")[0] in _FIXED:
            problems.append(Problem("--set", "changes no result", "remove it, or write one value", key=name))
        else:
            keys.append(Key(name, values))
    twice = {key.name for key in keys if sum(key.name == other.name for other in keys) > 1}
    problems += [Problem("--set", "is varied twice", "write one list or range", key=name) for name in sorted(twice)]
    if not keys and not problems:
        remedy = 'write several values, such as `--set "training.learning_rate=log(1e-5,1e-3)"` or `peft.lora_r=8,16`'
        problems.append(Problem("--set", "no key has more than one value", remedy))
    if problems:
        raise RecipeError(problems)
    return Space(tuple(keys), tuple(fixed))


def _range(name: str, value: str) -> Range | None:
    found = _RANGE.fullmatch(value)
    if found is None:
        return None
    kind, written = next(one for one in _KINDS if one == found[1]), f"{name}={value.strip()}"
    try:
        low, high = (float(part) for part in found[2].split(","))
    except ValueError:
        raise RecipeError(Problem("--set", f"`{written}`", f"write two numbers, such as `{kind}(1,8)`")) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise RecipeError(Problem("--set", f"`{written}` is no range", "write the lower number first"))
    if kind == "log" and low <= 0:
        raise RecipeError(Problem("--set", f"`{written}`: a logarithm needs numbers above 0", "raise the lower number"))
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise RecipeError(Problem("--set", f"`{written}`: the ends are not whole numbers", "use `uniform` or `log`"))
    return Range(kind, low, high)


def _choices(value: str) -> Choices | None:
    """The values of a list without brackets; None if there is one value, such as a TOML list."""
    parts = _split(value)
    if len(parts) < 2:
        return None
    if not all(parts):
        raise RecipeError(Problem("--set", f"`{value.strip()}` has an empty value", "remove the comma"))
    return Choices(tuple(dict.fromkeys(as_toml(parse_override(f"value={part}")[1]) for part in parts)))


def _split(value: str) -> list[str]:
    """Split at commas outside of brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in value:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and not quote and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def check_space(path: Path, text: str, space: Space) -> LoadedRecipe:
    """Check each value of each key alone, before anything trains, and return the recipe without the varied keys.

    A value that only some combinations allow is refused later, in its trials.

    Raises:
        RecipeError: if the recipe is invalid with the fixed overrides, or a key with all of its values.
    """
    problems: list[Problem] = []
    for key in space.keys:
        refused = []
        for value in key.values.ends():
            try:
                load_recipe(path, (*space.fixed, key.override(value)), text)
            except RecipeError as error:
                refused.append(error.problems)
        if len(refused) == len(key.values.ends()) or (refused and isinstance(key.values, Range)):
            problems += refused[0]
    try:
        loaded = load_recipe(path, space.fixed, text)
    except RecipeError as error:
        raise RecipeError(error.problems) from None
    if problems:
        raise RecipeError(dict.fromkeys(problems))
    return loaded
