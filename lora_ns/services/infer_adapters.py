"""Inference with several adapters of one base: the base is loaded once, and each row gets the answers of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_ns.answers.opened import Opened
from lora_ns.answers.weights import ADAPTER, BASE, shares_load
from lora_ns.answers.work import Compute, OnResult, Task, ignore_result
from lora_ns.data.rows import Outcome
from lora_ns.errors import Problem, UsageError
from lora_ns.recipe.generation import Generation
from lora_ns.services.evaluate_systems import check_alike, names_of
from lora_ns.services.infer import InferResult, Keep, error_of, questions

BASE_NAME = "base"
"""Name of the base among the adapters."""

OUTPUTS = "outputs"
"""The column with the answers, by name."""

Computing = Callable[[Opened, Mapping[str, Opened]], Compute]
"""Makes the function that computes for a run and for the runs that share its load."""


@dataclass(frozen=True)
class Adapter:
    """One of several adapters, or the base without any."""

    name: str
    opened: Opened
    weights: str = ADAPTER
    """How tasks ask for it."""


def adapters_of(first: Opened, others: Sequence[Opened], base_too: bool) -> list[Adapter]:
    """The adapters to ask, with names of their own: the last parts of their paths that differ.

    Args:
        first: the run whose generation settings count for all.
        others: runs or adapter folders on the same base.
        base_too: whether to ask the base, too.

    Raises:
        UsageError: if one has no adapter, has another base or other labels, or is given twice, or if the base has no
            trained head.
    """
    if base_too and not first.manifest.recipe.objective.writes_text:
        what = "the base has no trained head, so its labels and scores would be random"
        raise UsageError(Problem("--base-too", what, "leave it out"))
    places = [one.run.path.resolve() for one in (first, *others)]
    for number, one in enumerate((first, *others)):
        where = str(one.run.path)
        if one.adapter is None:
            raise UsageError(Problem(where, "has no adapter: its weights hold everything", "ask it on its own"))
        if places[number] in places[:number]:
            raise UsageError(Problem(where, "is given twice", "give each adapter once"))
        if one.base.fingerprint != first.base.fingerprint:
            own, other = first.manifest.base, one.manifest.base
            what = f"belongs to another base ({other.name}, {one.base.fingerprint[:12]}) than {first.run.path}"
            known = f"{own.name}, {first.base.fingerprint[:12]}"
            raise UsageError(Problem(where, what, f"give adapters of {known}, or ask it on its own"))
        check_alike(first, one)
    names = names_of([one.run.path for one in (first, *others)], {BASE_NAME})
    found = [Adapter(names[0], first)]
    found += [Adapter(BASE_NAME, first, BASE)] if base_too else []
    return found + [
        Adapter(name, one, f"beside{number}") for number, (name, one) in enumerate(zip(names[1:], others, strict=True))
    ]


def loaded_alone(adapters: Sequence[Adapter]) -> list[str]:
    """The names of adapters that cannot be on the load of the first one, and are asked one after the other."""
    first = adapters[0].opened
    return [one.name for one in adapters if one.opened is not first and not shares_load(first, one.opened)]


def together(adapters: Sequence[Adapter], computing: Computing) -> Compute:
    """A function that computes the tasks of several adapters, with one load for all that can share it."""
    first, alone = adapters[0].opened, set(loaded_alone(adapters))
    others = {one.weights: one.opened for one in adapters if one.name in alone}
    beside = {one.weights: one.opened for one in adapters if one.opened is not first and one.name not in alone}

    def compute(tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
        found: dict[int, list[Any]] = {}
        groups: list[tuple[Opened, Mapping[str, Opened], list[int]]] = [
            (first, beside, [number for number, task in enumerate(tasks) if task.weights not in others])
        ]
        groups += [(others[task.weights], {}, [number]) for number, task in enumerate(tasks) if task.weights in others]
        for opened, shared, numbers in groups:
            chosen = [
                replace(tasks[number], weights=ADAPTER) if tasks[number].weights in others else tasks[number]
                for number in numbers
            ]
            if chosen:
                found |= zip(numbers, computing(opened, shared)(chosen, _renumbered(on_result, numbers)), strict=True)
        return [found[number] for number in range(len(tasks))]

    return compute


def _renumbered(on_result: OnResult, numbers: Sequence[int]) -> OnResult:
    return lambda task, item, one: on_result(numbers[task], item, one)


def infer_adapters(
    adapters: Sequence[Adapter],
    rows: Sequence[Outcome],
    generation: Generation,
    compute: Compute,
    keep: Keep = lambda *_: None,
    tolerant: bool = False,
) -> InferResult:
    """Answer, label or tag every row with several adapters; arguments and errors as in `infer`.

    Each row has its columns, and in `outputs` what each adapter answers, by name: the columns that `infer` adds.
    """
    asked = [questions(one.opened, rows, generation, tolerant) for one in adapters]
    parts: list[dict[str, Any]] = [{} for _ in rows]

    def whole(place: int) -> dict[str, Any]:
        row = rows[place]
        if isinstance(row, Problem):
            return {"error": error_of(row)}
        return {**row.values, OUTPUTS: {one.name: parts[place][one.name] for one in adapters}}

    def note(number: int, place: int, output: dict[str, Any]) -> None:
        parts[place][adapters[number].name] = output
        if len(parts[place]) == len(adapters):
            keep(place, whole(place))

    for number, one in enumerate(asked):
        for place, fault in one.faults.items():
            note(number, place, {"error": error_of(fault)})
    tasks = [replace(one.task, weights=adapter.weights) for one, adapter in zip(asked, adapters, strict=True)]
    answered = [one.answer for one in asked]

    def note_result(task: int, item: int, found: Any) -> None:
        note(task, asked[task].places[item], answered[task](item, found)[1])

    for number, found in enumerate(compute(tasks, note_result)):
        for item, place in enumerate(asked[number].places):
            parts[place][adapters[number].name] = answered[number](item, found[item])[1]
    failed = {place for one in asked for place in one.faults}
    return InferResult(tuple(whole(place) for place in range(len(rows))), len(failed))
