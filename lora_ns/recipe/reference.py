"""Generator of the recipe reference: `python -m lora_ns.recipe.reference` prints `docs/recipe.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from lora_ns.recipe.keys import UNIONS, describe, table_class, tag_of
from lora_ns.recipe.objective_tables import kinds_of, top_level
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.tagged_lists import TAGGED_LISTS
from lora_ns.table import Table


def reference() -> str:
    """Return all tables and keys as Markdown, with the values, default and description of each key."""
    schema = Recipe.model_json_schema()
    parts = ["# Recipe reference", "", "Generated from the recipe classes; a test keeps it up to date.", ""]
    parts += ["## Top level", "", *_rows({name: schema["properties"][name] for name in ("task_name", "task_type")})]
    for name in top_level():
        for kind in kinds_of(name):
            parts += ["", f'## `[{name}]` with `task_type = "{kind.task_type}"`', *_table(kind)]
            parts += _lists_of_tables(name, kind)
        for method, model in UNIONS.get(name, {}).items():
            parts += ["", f'## `[{name}]` with `{tag_of(name)} = "{method}"`', *_table(model)]
        info = Recipe.model_fields.get(name)
        if name not in UNIONS and info and isinstance(info.annotation, type) and issubclass(info.annotation, Table):
            parts += ["", f"## `[{name}]`", *_table(info.annotation)]
            parts += _lists_of_tables(name, info.annotation)
    return "\n".join(parts) + "\n"


def _lists_of_tables(owner: str, model: type[Table]) -> Iterator[str]:
    for name, info in model.model_fields.items():
        if below := table_class(info.annotation):
            yield from ("", f"## `[[{owner}.{name}]]`", *_table(below))
        if listed := TAGGED_LISTS.get(f"{owner}.{name}"):
            for tag, kind in listed.classes.items():
                yield from ("", f'## `[[{owner}.{name}]]` with `{listed.tag} = "{tag}"`', *_table(kind))


def _table(model: type[Table]) -> Iterator[str]:
    schema = model.model_json_schema()
    yield ""
    yield str(schema.get("description", ""))
    yield ""
    yield from _rows({name: schema["properties"][name] for name in model.key_names()})


def _rows(properties: dict[str, Any]) -> Iterator[str]:
    yield "| key | takes | default | description |"
    yield "|---|---|---|---|"
    for name, entry in properties.items():
        default = f"`{json.dumps(entry['default'])}`" if entry.get("default") is not None else "-"
        yield f"| `{name}` | {describe(entry)} | {default} | {' '.join(entry.get('description', '').split())} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
