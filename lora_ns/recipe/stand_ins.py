"""Placeholders for invalid keys, so that the rules can check the other keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from lora_ns.recipe.keys import tag_of

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
    if len(keys) > 1 and keys[1] == _REWARDS:
        _put_reward(table, keys)
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


_REWARDS = "rewards"
"""Key of the list of reward functions in the tables of several objectives."""


def _put_reward(table: dict[str, Any], keys: Sequence[int | str]) -> None:
    """Replace an invalid reward function, or the whole list if that is invalid."""
    owner, whole = str(keys[0]), [{"name": "exact"}]
    entries = table[owner].get(_REWARDS) if isinstance(table.get(owner), dict) else None
    if len(keys) > 2 and _are_tables(entries) and isinstance(keys[2], int) and entries:
        entries[keys[2]] = whole[0]
    elif isinstance(table.get(owner), dict):
        table[owner][_REWARDS] = whole


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)
