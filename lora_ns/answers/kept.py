"""Results of tasks that are kept in the cache by their content, so that a base or checkpoint is not asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.answers.opened import Opened
from lora_ns.answers.weights import BASE
from lora_ns.answers.work import Compute, OnResult, Task, ignore_result
from lora_ns.data.cache import drop, find, keep, new_folder
from lora_ns.errors import LoransError
from lora_ns.files.marks import Mark, read_mark
from lora_ns.machine.libraries import versions
from lora_ns.model.adapter import WEIGHTS

_FILE = "answers.json"


def keeping(opened: Opened, compute: Compute) -> Compute:
    """A function that computes like another one, but takes from the cache what base and checkpoints answered before.

    Args:
        opened: the run; the results of its base and its checkpoints are kept, not those of its adapter.
        compute: the function to compute with.
    """

    def computing(tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
        found = {place: kept for place, task in enumerate(tasks) if (kept := _find(opened, task)) is not None}
        for place, results in found.items():
            for item, one in enumerate(results):
                on_result(place, item, one)
        new = [place for place in range(len(tasks)) if place not in found]
        computed = compute([tasks[place] for place in new], _renumbered(on_result, new)) if new else []
        for place, results in zip(new, computed, strict=True):
            _keep(opened, tasks[place], results)
            found[place] = results
        return [found[place] for place in range(len(tasks))]

    return computing


def _renumbered(on_result: OnResult, places: Sequence[int]) -> OnResult:
    """The receiver of results for some of the tasks, which have other numbers among all of them."""
    return lambda task, item, one: on_result(places[task], item, one)


def _key(opened: Opened, task: Task) -> str | None:
    """The key of a task in the cache; None for a task whose results are not kept."""
    manifest = opened.manifest
    if task.weights == BASE:
        whose: dict[str, Any] = {}
    elif (digest := _digest_of(task.weights)) is not None:
        whose = {"run": manifest.run_id, "adapter": digest, "method": manifest.recipe.peft.model_dump(mode="json")}
    else:
        return None
    return f"answers-{_digest(opened, task, whose)}"


def key_of_run(opened: Opened, task: Task) -> str:
    """The key of what a run itself answers: its adapter, and everything that its answers depend on."""
    whose = {"run": opened.manifest.run_id, "adapter": opened.manifest.adapter.get(WEIGHTS), "weights": task.weights}
    return _digest(opened, task, whose)


def _digest(opened: Opened, task: Task, whose: Mapping[str, Any]) -> str:
    """The hash of everything that the results of a task depend on."""
    manifest = opened.manifest
    told = {
        **whose,
        "versions": versions(),
        "base": manifest.base.fingerprint,
        "merged": [one.sha256 for one in manifest.base_adapters],
        "tokens": manifest.added_tokens,
        "stops": manifest.stop_token_ids,
        "model": manifest.recipe.model.model_dump(mode="json"),
        "quantization": manifest.recipe.quantization.model_dump(mode="json"),
        "plan": [manifest.plan.dtype.value, manifest.plan.device.value, manifest.plan.attn_implementation.value],
        "kind": task.kind,
        "items": list(task.items),
        "batches": [list(batch) for batch in task.batches],
        "generation": task.generation.model_dump(mode="json") if task.generation else None,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _digest_of(weights: str) -> str | None:
    """The hash of the adapter of a checkpoint, from its mark, which is verified before it is asked; otherwise None."""
    mark = read_mark(Path(weights)) if weights else None
    return mark.sha256.get(WEIGHTS) if isinstance(mark, Mark) else None


def _find(opened: Opened, task: Task) -> list[Any] | None:
    key = _key(opened, task)
    folder = find(key) if key else None
    if folder is None:
        return None
    try:
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        drop(folder)
        return None
    return found if isinstance(found, list) and len(found) == len(task.items) else None


def _keep(opened: Opened, task: Task, results: Sequence[Any]) -> None:
    """Keep the results of a task; a full or read-only disk costs only the time to compute them again."""
    key = _key(opened, task)
    if key is None:
        return
    try:
        folder = new_folder()
        (folder / _FILE).write_text(json.dumps(list(results)), encoding="utf-8")
        keep(folder, key)
    except (OSError, LoransError):
        return
