"""Tasks of lm-evaluation-harness: found by name, refused if they run code that nobody allowed, and loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.data.files.paths import places
from lora_ns.errors import DataError, Problem, UsageError, did_you_mean
from lora_ns.suites import LmEvalSuite

SEED = 1234
"""Seed of solved examples and sampled answers, as the harness has it."""


def load_tasks(suite: LmEvalSuite, folder: Path) -> dict[str, Any]:
    """Load the task of a suite, or all tasks of a group or tag, by name.

    Args:
        suite: the suite.
        folder: folder of the recipe, which `include_path` is relative to.

    Raises:
        UsageError: if there is no such task, or it runs code.
        DataError: if its rows cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    suite.check_allowed()
    include = None if suite.include_path is None else _folder(suite, folder)
    manager = TaskManager(include_path=include, include_defaults=include is None)
    known = manager.task_index
    if suite.task not in known:
        where = f" in {include}" if include else ""
        what = f"lm-evaluation-harness has no task `{suite.task}`{where}"
        raise UsageError(Problem(f"suite {suite.title}", what, did_you_mean(suite.task, list(known))))
    for name, settings in _leaves(suite.task, known):
        _check_confined(suite, name, settings)
    try:
        tasks: dict[str, Any] = manager.load(suite.task)["tasks"]
    except Exception as error:
        what = f"lm-evaluation-harness cannot load the task `{suite.task}`: {first_line(error)}"
        raise DataError(Problem(f"suite {suite.title}", what, _advice(suite, error))) from error
    for task in tasks.values():
        _set_examples(suite, task)
    return tasks


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _folder(suite: LmEvalSuite, folder: Path) -> str:
    """The folder of task files. Raises `UsageError`."""
    assert suite.include_path is not None, "the suite has a folder of task files"
    found = next((place for place in places(folder, suite.include_path) if place.is_dir()), None)
    if found is None:
        what = "there is no such folder"
        raise UsageError(Problem(suite.include_path, what, "name a folder with task files as `include_path`"))
    return str(found.resolve())


def _leaves(name: str, known: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Yield the tasks of a name with their settings, whose functions are not loaded yet."""
    entry = known.get(name)
    if entry is None or name in seen:
        return
    settings = entry.cfg or {}
    below: Sequence[Any] = sorted(entry.tags) if entry.kind.name == "TAG" else ()
    if entry.kind.name == "GROUP":
        below = settings.get("task") or ()
    elif not below:
        yield name, settings
    for one in below:
        yield from _members(one, known, seen | {name})


def _members(one: Any, known: Mapping[str, Any], seen: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """Yield the tasks of a member of a group: a name, or settings that change those of a name."""
    if isinstance(one, str):
        yield from _leaves(one, known, seen)
        return
    name = str(one.get("group") or one.get("task"))
    if name in known:
        for leaf, settings in _leaves(name, known, seen):
            yield leaf, {**settings, **one}
    elif isinstance(one.get("task"), list):
        for member in one["task"]:
            yield from _members(member, known, seen)
    else:
        yield name, one


def _check_confined(suite: LmEvalSuite, name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a task that runs code of the model or the hub, or that shows pictures. Raises `UsageError`."""
    from lm_eval.api.registry import METRIC_REGISTRY

    fault = None
    if settings.get("unsafe_code"):
        fault = "runs the programs that the model writes, without a sandbox", 'use the suite `kind = "code"`'
    elif (settings.get("dataset_kwargs") or {}).get("trust_remote_code"):
        fault = "needs `trust_remote_code`, which runs code from the hub to read its rows", "choose another task"
    elif settings.get("doc_to_image") or settings.get("doc_to_audio"):
        fault = "has pictures or sounds", "choose a task of text"
    elif not settings.get("process_results"):
        named = [one for one in settings.get("metric_list") or () if isinstance(one, Mapping)]
        for one in named:  # functions are paths here
            metric = str(one.get("metric"))
            if not Path(metric).is_absolute() and (one.get("hf_evaluate") or metric not in METRIC_REGISTRY):
                fault = f"has the metric `{metric}`, whose code comes from the hub", "choose another task"
    if fault is not None:
        raise UsageError(Problem(f"suite {suite.title}", f"the task `{name}` {fault[0]}", fault[1]))


def _set_examples(suite: LmEvalSuite, task: Any) -> None:
    """Set the number of solved examples, as the harness does: a task that has 0 keeps it. Raises `UsageError`."""
    own = task.get_config("num_fewshot")
    if suite.num_fewshot is None:
        task.set_config(key="num_fewshot", value=own or 0)
    elif own == 0 and suite.num_fewshot:
        what = f"the task `{task.config.task}` is asked without examples, and the harness lets nobody change that"
        raise UsageError(Problem(f"suite {suite.title}", what, "remove `num_fewshot`"))
    else:
        task.set_config(key="num_fewshot", value=suite.num_fewshot)


def _advice(suite: LmEvalSuite, error: Exception) -> str:
    if isinstance(error, OSError) and os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}:
        return "`HF_HUB_OFFLINE` is set: unset it, or download the rows of the task first"
    return "correct its task file" if suite.include_path else "check the connection to the hub"
