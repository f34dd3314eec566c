"""Choice of the objective: the one that is asked for, or the first that trains on the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lora_ns.errors import Problem, UsageError
from lora_ns.formats import LabelledCompletion, Preference
from lora_ns.formats.cells import listed
from lora_ns.formats.readings import Reading
from lora_ns.objectives import OBJECTIVE_TABLES, OBJECTIVES, Objective, objective_of
from lora_ns.services.init.draft import Draft
from lora_ns.services.init.lengths import usual_length

Kinds = Sequence[type[Objective]]

ALL: Kinds = tuple(OBJECTIVES.values())
"""All objectives, the most usual first."""

_OWN_TASK = "template"
"""The starting recipe that does not determine the task."""


def allowed_objectives(draft: Draft) -> Kinds:
    """The objectives that the options allow, or those of the starting recipe's task; at least one.

    Raises:
        UsageError: if the objective that is asked for does not train the task that is asked for.
    """
    wanted = draft.wanted
    named = [kind for kind in ALL if wanted.objective in (None, kind.toml)]
    task = wanted.task
    if task is None and wanted.objective is None and wanted.start not in (None, _OWN_TASK):
        task = draft.tables["task_type"]
    found = [kind for kind in named if task in (None, kind.task_type)]
    if not found:
        what = f"[{wanted.objective}] does not train {task}, but {named[0].task_type}"
        raise UsageError(Problem("--task", what, "leave it out"))
    return found


def objective_for(reading: Reading, kinds: Kinds = ALL) -> type[Objective] | None:
    """Return the first objective that trains on such rows; None if none does."""
    return next((kind for kind in kinds if reading.makes(kind.examples)), None)


def task_of(reading: Reading, kinds: Kinds = ALL) -> str:
    """Return PEFT's name of the task for such rows, which one of the objectives trains on."""
    kind = objective_for(reading, kinds)
    assert kind is not None, "readings that no objective trains on are left out"
    return kind.task_type


def learns_preferences(kind: type[Objective]) -> bool:
    """True if an objective trains on pairs or on labelled answers."""
    return any(example in kind.examples for example in (Preference, LabelledCompletion))


def select_objective(draft: Draft, kind: type[Objective], why: str) -> None:
    """Write the task and the table that selects an objective, and remove those of others and what it does not use."""
    draft.tables["task_type"] = kind.task_type
    for table in set(OBJECTIVE_TABLES) - {kind.toml}:
        draft.tables.pop(table, None)
    if unused := [key for key in kind.inert if _leave_out(draft.tables, key)]:
        draft.reasons.append(f"{listed(unused)}: left out, because [{kind.toml}] does not use them")
    if kind is not objective_of(kind.task_type):
        own = draft.tables.setdefault(kind.toml, {})
        own.setdefault("max_seq_length", usual_length(draft, kind, own))
        for key, value in kind.minimum.items():
            own.setdefault(key, value)
        draft.reasons.append(f"objective: [{kind.toml}], because {why}")


def _leave_out(tables: dict[str, Any], key: str) -> bool:
    """Remove a table or a key of one; True if it was there."""
    table, _, name = key.partition(".")
    if not name:
        return tables.pop(table, None) is not None
    there = name in tables.get(table, {})
    if there:
        tables[table] = {own: value for own, value in tables[table].items() if own != name}
    return there
