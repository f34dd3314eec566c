"""Overrides of recipe keys: `--set table.key=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.errors import Problem, RecipeError
from lora_ns.files.reading import RefusedError, TOMLDecodeError, check_depth, check_text, load_toml


def origin_of(lines: Mapping[str, int], overrides: Sequence[str], key: str) -> str:
    """Return the origin of a dotted key's value: `--set`, `recipe` or `default`."""
    for override in reversed(overrides):
        names, value = parse_override(override)
        owner = ".".join(names)
        if f"{key}.".startswith(f"{owner}."):
            rest = key.removeprefix(owner).strip(".")
            return "--set" if _has(value, rest.split(".") if rest else []) else "default"
    return "recipe" if key in lines else "default"


def parse_override(override: str) -> tuple[list[str], Any]:
    """Split `a.b=value` into its key and its TOML value. A value that is not TOML becomes a plain string.

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


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Merge overrides into the tables of a recipe."""
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
    """Return the key in a table, or the index in a list."""
    if not isinstance(target, list):
        return name
    if not name.isdecimal() or len(name) > 9 or int(name) >= len(target):
        what = f"`{override}`: no index `{name}` in a list of {len(target)}"
        raise RecipeError(Problem("--set", what, "indices start at 0"))
    return int(name)


def _has(value: Any, names: Sequence[str]) -> bool:
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return True


def override_key(override: str) -> str:
    """Return the dotted key of an override."""
    return ".".join(name.strip() for name in override.partition("=")[0].split("."))
