"""The keys that a recipe can have, and the values that each takes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter

from lora_ns.methods import METHODS
from lora_ns.quantizers import QUANTIZATIONS
from lora_ns.recipe.distributed import STRATEGIES
from lora_ns.recipe.objective_tables import chosen_objective, kinds_of, top_level
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.tagged_lists import TAGGED_LISTS
from lora_ns.table import DURATION, JOINERS, PLACE, WORD, Table, control_in

UNIONS: Mapping[str, Mapping[str, type[Table]]] = {
    "peft": METHODS,
    "quantization": QUANTIZATIONS,
    "distributed": STRATEGIES,
}
"""Classes of the tables that are tagged unions, by their tag."""


def tag_of(union: str) -> str:
    """Return the key that chooses the class of a tagged union."""
    return "strategy" if union == "distributed" else "method"


def schema_of(dotted: str, table: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the JSON Schema of a key.

    Args:
        dotted: the key.
        table: the recipe's tables, valid or not: they choose the method and the objective.

    Returns:
        None if the recipe cannot have the key.
    """
    owner, _, name = dotted.rpartition(".")
    if not owner and (name in UNIONS or kinds_of(name)):
        return {"type": "object"}
    model = model_at(owner.split(".") if owner else [], table)
    if model is None or name not in model.key_names():
        return None
    info = model.model_fields[name]
    annotated: Any = info.annotation
    if isinstance(annotated, type) and issubclass(annotated, Table):
        return {"type": "object"}
    for constraint in info.metadata:
        annotated = Annotated[annotated, constraint]
    return TypeAdapter(annotated).json_schema()


def describe(schema: Mapping[str, Any]) -> str:
    """Put the JSON Schema of a key into a few words, such as `a whole number from 1` or `one of: "a", "b"`."""
    if "const" in schema:
        return as_toml(schema["const"])
    if "enum" in schema:
        return "one of: " + ", ".join(as_toml(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(describe(part) for part in schema["anyOf"] if part.get("type") != "null")
    if schema["type"] == "array":
        return f"a {'non-empty ' * bool(schema.get('minItems'))}list{_items(schema.get('items', {}))}"
    return f"a {_noun(schema)}" if schema["type"] in _NOUNS else "true or false"


def _items(schema: Mapping[str, Any]) -> str:
    """Describe the items of a list, such as ` of strings`; empty if they may be anything."""
    if "$ref" in schema or any("$ref" in part for part in schema.get("oneOf", ())):
        return " of tables"
    if "enum" in schema:
        return f" with any of: {', '.join(map(as_toml, schema['enum']))}"
    return f" of {_noun(schema, 's')}" if schema.get("type") in _NOUNS else ""


_NOUNS = {"integer": "whole number", "number": "number", "string": "string", "object": "table"}


def _noun(schema: Mapping[str, Any], plural: str = "") -> str:
    """Describe values of a JSON type within their limits, such as `whole number from 1` or `non-empty strings`."""
    bounds = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    found = {text: schema[key] for key, text in bounds.items() if key in schema}
    limits = [text.format(bound if isinstance(bound, int) else f"{bound:g}") for text, bound in found.items()]
    if schema.get("pattern"):
        limits.append(_PATTERNS[schema["pattern"]])
    if schema.get("maxLength") == 1:
        limits.append("of one character")
    is_filled = bool(schema.get("minLength")) and not limits
    return " ".join([f"{'non-empty ' * is_filled}{_NOUNS[schema['type']]}{plural}", *limits])


_PATTERNS = {
    WORD: "of letters, digits, `.`, `_`, `-`",
    PLACE: "of an address and a port from 1 to 65535",
    DURATION: 'such as "2h30m", "90m" or "45s"',
}
"""Descriptions of the patterns that keys have."""


def types_of(schema: Mapping[str, Any]) -> set[str]:
    """Return the JSON types that a key takes."""
    parts = [types_of(part) for part in schema.get("anyOf", ())]
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    own = {schema["type"]} if "type" in schema else {"string" for value in values if isinstance(value, str)}
    return own.union(*parts)


def model_at(keys: Sequence[str], table: Mapping[str, Any]) -> type[Table] | None:
    """Return the class of the table at these keys, None if there is none."""
    model: type[Table] = Recipe
    for depth, key in enumerate(keys):
        if model is Recipe and (key in UNIONS or kinds_of(key)):
            chosen = _chosen(table, key)
            if chosen is None:
                return None
            model = chosen
            continue
        if key.isdigit():
            continue  # the tables in a list are all of one class
        info = model.model_fields.get(key)
        below = info and (_in_list(keys, depth, table) or table_class(info.annotation))
        if below is None:
            return None
        model = below
    return model


def _in_list(keys: Sequence[str], depth: int, table: Any) -> type[Table] | None:
    """Return the class of a table in the list at this depth; None if its tables are of one class, or it is no list."""
    listed = TAGGED_LISTS.get(".".join(keys[: depth + 1]))
    if listed is None:
        return None
    for key in keys[: depth + 2]:
        number = int(key) if key.isdigit() else None
        try:
            table = table[key if number is None else number]
        except (KeyError, IndexError, TypeError):
            table = None
    return listed.class_of(table)


def table_class(annotation: Any) -> type[Table] | None:
    """Return the class of a key that is a table or a list of tables, None for other keys."""
    kinds = get_args(annotation)[:1] if get_origin(annotation) is tuple else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table)), None)


def _chosen(table: Mapping[str, Any], union: str) -> type[Table] | None:
    """Return the class that a tagged union's tag, or the task of an objective's table, chooses."""
    if kinds := kinds_of(union):
        chosen = chosen_objective(table)
        return chosen if chosen in kinds else kinds[0]
    entry = table.get(union)
    method = entry.get(tag_of(union)) if isinstance(entry, Mapping) else None
    return UNIONS[union].get(method) if isinstance(method, str) else None


def names_in(model: type[Table]) -> Sequence[str]:
    """Return the names of a table's keys, as the TOML has them."""
    return top_level() if model is Recipe else model.key_names()


def known_keys(table: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Iterate over every dotted key that a recipe can have; of a union, those of its chosen method, or of all."""
    for name in top_level():
        models = _classes(name, table or {})
        yield from dict.fromkeys(f"{name}.{key}" for model in models for key in model.key_names())
        if not models:
            yield name


def _classes(name: str, table: Mapping[str, Any]) -> Sequence[type[Table]]:
    """Return the classes that a table at the top may have; none for a plain key."""
    if name in UNIONS:
        chosen = _chosen(table, name)
        return [chosen] if chosen else list(UNIONS[name].values())
    if kinds_of(name):
        return kinds_of(name)
    kind = Recipe.model_fields[name].annotation
    return [kind] if isinstance(kind, type) and issubclass(kind, Table) else []


def choices(key: str) -> list[str]:
    """Return the values of a dotted key that takes only a few, spelt as after `--set key=`."""
    owner, _, name = key.rpartition(".")
    if owner in UNIONS and name == tag_of(owner):
        return list(UNIONS[owner])
    tables: list[dict[str, Any]] = [{owner: {tag_of(owner): tag}} for tag in UNIONS.get(owner, ())] or [{}]
    schemas = [schema for table in tables if (schema := schema_of(key, table))]
    return list(dict.fromkeys(value for schema in schemas for value in _choices(schema)))


def _choices(schema: Mapping[str, Any]) -> Iterator[str]:
    if schema.get("type") == "boolean":
        yield from ("true", "false")
    for part in schema.get("anyOf", ()):
        yield from _choices(part)
    values = [schema["const"]] if "const" in schema else schema.get("enum", ())
    yield from (value if isinstance(value, str) else as_toml(value) for value in values)


def as_toml(value: Any) -> str:
    """Spell a value as TOML does."""
    if isinstance(value, (float, datetime.date, datetime.time)):
        return str(value)
    written = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(f"\\u{ord(sign):04x}" if control_in(sign, JOINERS) else sign for sign in written)
