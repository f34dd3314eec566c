"""Conversion between TOML tables and the fields of `Recipe`, whose `objective` is one of several tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_ns.objectives import OBJECTIVE_TABLES, OBJECTIVES, Objective, objective_of, objectives_of
from lora_ns.recipe.recipe import Recipe
from lora_ns.table import Conflict

_FIELD, _TAG = "objective", "table"


def top_level() -> list[str]:
    """Return the names of the top-level keys and tables of a recipe, in order."""
    return [name for field in Recipe.model_fields for name in (OBJECTIVE_TABLES if field == _FIELD else (field,))]


def kinds_of(name: str) -> list[type[Objective]]:
    """Return the objectives whose keys are in a TOML table; empty for other tables."""
    return [kind for kind in OBJECTIVES.values() if kind.toml == name]


def chosen_objective(tables: Mapping[str, Any]) -> type[Objective]:
    """Return the objective of a recipe's tables, valid or not."""
    return objective_of(tables.get("task_type"), tables)


def fields_of(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Convert TOML tables to fields of `Recipe`, without keys that have no effect with their objective."""
    kind = chosen_objective(tables)
    own = tables.get(kind.toml, {})
    if isinstance(own, Mapping):
        strays = {key for key, _ in _strays(tables, kind)}
        own = _tagged({name: value for name, value in own.items() if kind.key(name) not in strays}, kind)
    rest = {name: value for name, value in tables.items() if name not in (*OBJECTIVE_TABLES, _FIELD)}
    return {**rest, _FIELD: own}


def _tagged(own: Mapping[str, Any], kind: type[Objective]) -> dict[str, Any]:
    return {**own, _TAG: next(tag for tag, other in OBJECTIVES.items() if other is kind)}


def location_of(tables: Mapping[str, Any], location: Sequence[int | str]) -> Sequence[int | str]:
    """Convert the location of a pydantic error in the fields to one in the TOML tables."""
    return (chosen_objective(tables).toml, *location[2:]) if location[0] == _FIELD else location


def unknown_to_toml(tables: Mapping[str, Any]) -> Iterator[list[int | str]]:
    """Yield keys that exist in `Recipe` but are not allowed in TOML."""
    if _FIELD in tables:
        yield [_FIELD]
    for name in OBJECTIVE_TABLES:
        if isinstance(tables.get(name), Mapping) and _TAG in tables[name]:
            yield [name, _TAG]


def other_objectives(tables: Mapping[str, Any]) -> Iterator[tuple[str, type[Objective], Any]]:
    """Yield the tables of objectives that the task does not use, each with its class, to check their keys as well."""
    chosen = chosen_objective(tables)
    for name in OBJECTIVE_TABLES:
        if name in tables and name != chosen.toml:
            own = tables[name]
            yield name, kinds_of(name)[0], _tagged(own, kinds_of(name)[0]) if isinstance(own, Mapping) else own


def without_effect(tables: Mapping[str, Any]) -> Iterator[Conflict]:
    """Yield a conflict for every table or key that the task's objective does not use."""
    kind = chosen_objective(tables)
    for key, other in _strays(tables, kind):
        shown = f"`{key}`" if "." in key else f"`[{key}]`"
        if other in objectives_of(kind.task_type):
            yield Conflict(("task_type", key), f"{shown} has no effect with `[{kind.toml}]`", "remove it")
            continue
        what = f'{shown} has no effect with `task_type = "{kind.task_type}"`'
        tasks = " or ".join(f'"{task}"' for task in dict.fromkeys(own.task_type for own in kinds_of(other.toml)))
        yield Conflict(("task_type", key), what, f"remove it, or write `task_type = {tasks}`")


def _strays(tables: Mapping[str, Any], kind: type[Objective]) -> Iterator[tuple[str, type[Objective]]]:
    """Yield dotted keys that only other objectives use, each with one of these objectives."""
    for other in OBJECTIVES.values():
        own = tables.get(other.toml)
        if other.toml != kind.toml:
            if other.toml in tables:
                yield other.toml, other
        elif isinstance(own, Mapping):
            yield from (
                (kind.key(name), other) for name in own if name in other.key_names() and name not in kind.key_names()
            )


def as_tables(recipe: Recipe) -> dict[str, Any]:
    """Convert a recipe to the values of its TOML tables."""
    fields = recipe.model_dump(mode="json")
    objective = fields.pop(_FIELD)
    return {**fields, recipe.objective.toml: {name: value for name, value in objective.items() if name != _TAG}}


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe's TOML."""
    schema = Recipe.model_json_schema()
    kinds = {kind.__name__: kind for kind in OBJECTIVES.values()}
    for name, definition in schema["$defs"].items():
        if name in kinds:
            del definition["properties"][_TAG]
        for entry in definition.get("properties", {}).values():
            if "description" in entry:
                entry["description"] = " ".join(entry["description"].split())
    entries = {
        table: {**_one_of([kind.__name__ for kind in kinds_of(table)]), "description": summary(table)}
        for table in OBJECTIVE_TABLES
    }
    properties: dict[str, Any] = {}
    for name, entry in schema["properties"].items():
        properties |= entries if name == _FIELD else {name: entry}
    required = [name for name in schema["required"] if name != _FIELD]
    return {**schema, "properties": properties, "required": required}


def summary(table: str) -> str:
    """Return the description of an objective's table, from the docstring of its first class."""
    return (kinds_of(table)[0].__doc__ or "").partition("\n")[0]


def _one_of(names: Sequence[str]) -> dict[str, Any]:
    found = [{"$ref": f"#/$defs/{name}"} for name in names]
    return found[0] if len(found) == 1 else {"anyOf": found}
