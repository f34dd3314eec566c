"""Translations as TOML: every line names its source, and the top lists the keys that were not carried over."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from lora_ns.importers.draft import Translation

_TABLES = ("model", "quantization", "peft", "dataset", "training", "distributed", "sft")
"""Order of tables; others follow."""


def as_toml(translation: Translation) -> str:
    """Write the recipe of a translation as TOML, with comments."""
    lines = [f"# Imported from {translation.source.path.name}, a configuration of {translation.tool}."]
    for outcome in translation.refused:
        text = f"not carried over: `{outcome.shown}` (line {outcome.line}): {outcome.said}"
        lines += textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="#   ", break_long_words=False)
    tables: dict[str, dict[str, Any]] = {}
    for key, value in translation.recipe.items():
        owner, _, name = key.rpartition(".")
        tables.setdefault(owner, {})[name] = value
    top = tables.pop("", {})
    lines += ["", *_keys("", {name: top[name] for name in sorted(top)}, translation)]
    order = [*_TABLES, *map(_root, tables)]
    for owner in sorted(tables, key=lambda owner: (order.index(_root(owner)), owner)):
        lines += ["", f"[{owner}]", *_keys(owner, tables[owner], translation)]
    return "\n".join(lines) + "\n"


def _root(owner: str) -> str:
    return owner.partition(".")[0]


def _keys(owner: str, values: Mapping[str, Any], translation: Translation) -> Iterator[str]:
    rows = {name: value for name, value in values.items() if not _is_list_of_tables(value)}
    written = [
        (f"{_key(name)} = {toml_value(value)}", _origin(owner, name, translation)) for name, value in rows.items()
    ]
    width = min(48, max((len(text) for text, _ in written), default=0))
    yield from (f"{text:<{width}}  # {origin}" if origin else text for text, origin in written)
    for name, value in values.items():
        for table in value if _is_list_of_tables(value) else ():
            yield from (
                "",
                f"[[{owner}.{name}]]",
                *(f"{_key(key)} = {toml_value(part)}" for key, part in table.items()),
            )


def _origin(owner: str, name: str, translation: Translation) -> str:
    """Return the source keys of a recipe key, or the reason why it was filled in, for a comment."""
    key = f"{owner}.{name}" if owner else name
    if keys := translation.origins.get(key):
        return ", ".join(keys)
    return next((filled.said for filled in translation.filled if filled.recipe == key), "")


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, dict) for part in value)


def toml_value(value: Any) -> str:
    """Write a value as TOML: a string, number, boolean, list, or a table on one line."""
    if isinstance(value, Mapping):
        return (
            f"{{ {', '.join(f'{_key(key)} = {toml_value(part)}' for key, part in value.items())} }}" if value else "{}"
        )
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float) and not isinstance(value, bool):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(name: str) -> str:
    """Write a key, in quotes if it has other characters than letters, digits, `_` and `-`."""
    is_bare = bool(name) and all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in name)
    return name if is_bare else json.dumps(name, ensure_ascii=False)
