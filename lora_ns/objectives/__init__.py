"""What a run learns: one file per objective, which answers all that the rest of lorans asks about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, get_args

from pydantic import Field

from lora_ns.objectives.base import Objective
from lora_ns.objectives.classification import Classification
from lora_ns.objectives.labels import LabelObjective
from lora_ns.objectives.sft import Sft
from lora_ns.objectives.tagging import Tagging
from lora_ns.objectives.text import TextObjective

__all__ = [
    "OBJECTIVES",
    "OBJECTIVE_TABLES",
    "AnyObjective",
    "Classification",
    "LabelObjective",
    "Objective",
    "Sft",
    "Tagging",
    "TextObjective",
    "objective_of",
    "objectives_of",
]

AnyObjective = Annotated[Sft | Classification | Tagging, Field(discriminator="table")]
"""The objective of a recipe, told apart by its `table`."""

OBJECTIVES: Mapping[str, type[Objective]] = {
    kind.model_fields["table"].default: kind for kind in get_args(get_args(AnyObjective)[0])
}
"""The objectives, by their tags."""

OBJECTIVE_TABLES: tuple[str, ...] = tuple(dict.fromkeys(kind.toml for kind in OBJECTIVES.values()))
"""Names of the TOML tables that have the keys of objectives."""


_BY_TASK: dict[str, list[type[Objective]]] = {}
for _kind in OBJECTIVES.values():
    _BY_TASK.setdefault(_kind.task_type, []).append(_kind)


def objective_of(task_type: object, given: Collection[str] = ()) -> type[Objective]:
    """The objective of a task: the one whose table is given, else the first.

    Args:
        task_type: what a recipe says; every objective is looked at if no task is called so.
        given: names of the tables of a recipe.
    """
    of_task = objectives_of(task_type) or list(OBJECTIVES.values())
    return next((kind for kind in of_task if kind.toml in given), of_task[0])


def objectives_of(task_type: object) -> list[type[Objective]]:
    """The objectives of a task, by PEFT's name; none if no task is called so."""
    return _BY_TASK.get(task_type, []) if isinstance(task_type, str) else []
