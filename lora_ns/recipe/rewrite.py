"""A recipe's text with other values: comments and the order of keys stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lora_ns.files.reading import RefusedError, TOMLDecodeError, load_toml, split_lines
from lora_ns.recipe.keys import as_toml
from lora_ns.recipe.lines import line_numbers

_VALUE = re.compile(
    r"""(?P<key>\s*[^=]+?\s*=\s*)(?P<value>"(?:\\.|[^"\\])*"|'[^']*'|\[[^\[\]#]*\]|\{[^{}#]*\}|[^\s#,\[\]{}"']+)(?P<rest>\s*(?:\#.*)?)"""
)


def rewritten(text: str, values: Mapping[str, object], without: Sequence[str] = ()) -> str | None:
    """Return the text of a recipe with other values of dotted keys, such as `peft.lora_r`.

    Args:
        text: a valid recipe.
        values: the values by their keys; a key that the recipe does not have is added to its table.
        without: keys whose lines are removed.

    Returns:
        None if one of the keys has a value of several lines or a form that cannot be replaced in its line.
    """
    lines = split_lines(text)
    places = line_numbers(text)
    gone: set[int] = set()
    for key in without:
        if key not in places:
            continue
        if not _VALUE.fullmatch(lines[places[key] - 1]):
            return None
        gone.add(places[key] - 1)
    added: dict[str, list[str]] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        if key in places:
            found = _VALUE.fullmatch(lines[places[key] - 1])
            if found is None:
                return None
            lines[places[key] - 1] = f"{found['key']}{as_toml(value)}{found['rest']}"
        else:
            added.setdefault(table, []).append(f"{name} = {as_toml(value)}")
    new = _with_added([line for place, line in enumerate(lines) if place not in gone], added)
    try:
        load_toml(new)
    except (TOMLDecodeError, RefusedError):  # such as a table whose keys are all dotted
        return None
    return new


def _with_added(lines: list[str], added: Mapping[str, Sequence[str]]) -> str:
    for table, new in added.items():
        places = line_numbers("\n".join(lines))
        if not table:
            lines[0:0] = new
        elif table in places and lines[places[table] - 1].lstrip().startswith("["):
            end = places[table]
            while end < len(lines) and lines[end].strip() and not lines[end].lstrip().startswith("["):
                end += 1
            lines[end:end] = new
        else:
            lines += ["", f"[{table}]", *new]
    return "\n".join(lines).rstrip("\n") + "\n"
