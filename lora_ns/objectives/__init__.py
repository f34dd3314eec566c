"""Training objectives: one class for each, with its keys, examples, trainer, metrics and answers.

Every module of this room is imported, and its objectives are found. To add one, write its class in a new file.
"""

from __future__ import annotations

import functools
import importlib
import operator
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lora_ns.objectives.base import Objective
from lora_ns.objectives.classification import Classification
from lora_ns.objectives.dpo import Dpo
from lora_ns.objectives.labels import LabelObjective
from lora_ns.objectives.reward import Reward
from lora_ns.objectives.sft import Sft
from lora_ns.objectives.tagging import Tagging
from lora_ns.objectives.text import TextObjective

__all__ = [
    "OBJECTIVES",
    "OBJECTIVE_TABLES",
    "TASK_TYPES",
    "AnyObjective",
    "Classification",
    "LabelObjective",
    "Objective",
    "Reward",
    "Sft",
    "Tagging",
    "TextObjective",
    "objective_of",
    "objectives_of",
]


def _classes() -> Iterator[type[Objective]]:
    """The classes of all modules that have a tag: first those that a task or a kind of rows has by default."""
    defaults = (Sft, Dpo, Classification, Tagging)
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found, below = [], [Objective]
    while below:
        kind = below.pop()
        below += kind.__subclasses__()
        if isinstance(kind.model_fields["table"].default, str) and kind.__module__.startswith(f"{__name__}."):
            found.append(kind)
    order = {kind: number for number, kind in enumerate(defaults)}
    yield from sorted(found, key=lambda kind: (order.get(kind, len(order)), kind.model_fields["table"].default))


OBJECTIVES: Mapping[str, type[Objective]] = {kind.model_fields["table"].default: kind for kind in _classes()}
"""Objectives by tag."""

if TYPE_CHECKING:
    AnyObjective = Annotated[Objective, "a union of all classes"]
else:
    AnyObjective = Annotated[functools.reduce(operator.or_, OBJECTIVES.values()), Field(discriminator="table")]
"""The objective of a recipe, a union discriminated by `table`."""

OBJECTIVE_TABLES: tuple[str, ...] = tuple(dict.fromkeys(kind.toml for kind in OBJECTIVES.values()))
"""Names of the TOML tables of objectives."""


_BY_TASK: dict[str, list[type[Objective]]] = {}
for _kind in OBJECTIVES.values():
    _BY_TASK.setdefault(_kind.task_type, []).append(_kind)

TASK_TYPES: tuple[str, ...] = tuple(_BY_TASK)
"""PEFT's names of the tasks."""


def objective_of(task_type: object, given: Collection[str] = ()) -> type[Objective]:
    """Choose the objective of a task: the first whose table the recipe has, or else the first of all.

    Args:
        task_type: value in the recipe. If it is no task type, all objectives are considered.
        given: names of the tables in the recipe.
    """
    of_task = objectives_of(task_type) or list(OBJECTIVES.values())
    return next((kind for kind in of_task if kind.toml in given), of_task[0])


def objectives_of(task_type: object) -> list[type[Objective]]:
    """The objectives of a PEFT task type; empty for anything else."""
    return _BY_TASK.get(task_type, []) if isinstance(task_type, str) else []
