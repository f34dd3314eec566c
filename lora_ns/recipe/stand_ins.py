"""Placeholders for invalid keys, so that the rules can check the other keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.recipe.keys import tag_of
from lora_ns.recipe.tagged_lists import TaggedList, tagged_list

STAND_INS: Mapping[str, Any] = {
    "task_name": "task",
    "task_type": "CAUSAL_LM",
    "model": {"name_or_path": "base"},
    "model.name_or_path": "base",
    "peft": {"method": "lora"},
    "peft.method": "lora",
    "dataset": {},
    "training": {"output_dir": "run"},
    "training.output_dir": "run",
    "distillation.teacher": "base",
}
"""Placeholders for required keys that are missing or invalid."""


_STAND_IN_TAGS = {"peft": "lora", "quantization": "bnb-4bit", "distributed": "ddp"}
"""Tags for tagged unions whose own tag is missing or invalid."""


def put_stand_in(table: dict[str, Any], keys: Sequence[int | str]) -> None:
    """Replace an invalid key by its placeholder, or remove it."""
    dotted = ".".join(str(key) for key in keys)
    if dotted in _STAND_IN_TAGS and isinstance(table.get(dotted), dict):
        table[dotted][tag_of(dotted)] = _STAND_IN_TAGS[dotted]
        return
    if listed := tagged_list(keys):
        _put_listed(table, keys, listed)
        return
    target: Any = table
    for depth, key in enumerate(keys):
        here = ".".join(str(name) for name in keys[: depth + 1])
        below = target[key] if isinstance(key, int) else target.get(key)
        goes_on = isinstance(below, dict) or (depth + 2 < len(keys) and _are_tables(below))
        if here == dotted or not goes_on:
            target.pop(key, None)
            if here in STAND_INS:
                target[key] = copy.deepcopy(STAND_INS[here])
            return
        target = below


def _put_listed(table: dict[str, Any], keys: Sequence[int | str], listed: TaggedList) -> None:
    """Replace an invalid table of a list by the smallest valid one, or the whole list if that is invalid."""
    owner, (name, *below) = table.get(str(keys[0])), keys[1:]
    if not isinstance(owner, dict):
        return
    entries = owner.get(str(name))
    if below and isinstance(below[0], int) and _are_tables(entries) and entries:
        entries[below[0]] = dict(listed.stand_in)
    else:
        owner[str(name)] = [dict(listed.stand_in)]


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)
