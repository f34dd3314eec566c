"""Training objectives: one class for each, with its keys, examples, trainer, metrics and answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, get_args

from pydantic import Field

from lora_ns.objectives.base import Objective
from lora_ns.objectives.classification import Classification
from lora_ns.objectives.cpo import Cpo
from lora_ns.objectives.dpo import Dpo
from lora_ns.objectives.kto import Kto
from lora_ns.objectives.labels import LabelObjective
from lora_ns.objectives.orpo import Orpo
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
    "Cpo",
    "Dpo",
    "Kto",
    "LabelObjective",
    "Objective",
    "Orpo",
    "Reward",
    "Sft",
    "Tagging",
    "TextObjective",
    "objective_of",
    "objectives_of",
]

AnyObjective = Annotated[Sft | Dpo | Kto | Orpo | Cpo | Classification | Reward | Tagging, Field(discriminator="table")]
"""The objective of a recipe, a union discriminated by `table`."""

OBJECTIVES: Mapping[str, type[Objective]] = {
    kind.model_fields["table"].default: kind for kind in get_args(get_args(AnyObjective)[0])
}
"""Objectives by tag."""

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
