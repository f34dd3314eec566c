"""Inference divided among worker processes of this machine, one batch at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_ns.answers.artefact import is_artefact, open_place
from lora_ns.answers.changed_files import Force
from lora_ns.answers.opened import Opened, open_run
from lora_ns.answers.weights import Weights
from lora_ns.answers.work import (
    Compute,
    OnProgress,
    OnResult,
    Task,
    compute_batch,
    compute_here,
    ignore_result,
    row_progress,
)
from lora_ns.files.disk import write_atomic
from lora_ns.files.temporary import temporary_folder
from lora_ns.launch.workers import WorkerFiles, run_workers, worker_environments
from lora_ns.machine.hardware import Machine, detect
from lora_ns.machine.libraries import prepare
from lora_ns.parallel.stop import StopSignal
from lora_ns.recipe.generation import Generation
from lora_ns.run.at_step import RunAtStep
from lora_ns.run.directory import RunDir


@dataclass(frozen=True)
class Workers:
    """Number of worker processes, and the arguments with which each of them opens the run."""

    count: int
    machine: Machine
    base: Path | None = None
    dtype: str | None = None
    force: bool = False
    against: Path | None = None
    """The run of an artefact, if it was named."""
    beside: Mapping[str, Path] = field(default_factory=dict)
    """Runs whose adapters share its load."""


def compute_by(
    workers: Workers,
    opened: Opened,
    tell: OnProgress,
    note: Callable[[str], None],
    beside: Mapping[str, Opened] | None = None,
) -> Compute:
    """Compute in worker processes, or in this process if one worker or one batch is enough.

    Results are reported as the workers finish their batches, also those of a worker that fails or is stopped later.

    Args:
        workers: number of processes, and how each opens the run.
        opened: the run.
        tell: called with the number of items done.
        note: called with a note if there are more processes than batches.
        beside: runs whose adapters share the load of the run, by the names with which tasks ask for them.
    """
    here = compute_here(opened, tell, beside)
    workers = replace(workers, beside={name: one.run.path for name, one in (beside or {}).items()})

    def compute(tasks: Sequence[Task], on_result: OnResult = ignore_result) -> list[list[Any]]:
        batches = max(1, *(len(task.batches) for task in tasks))
        count = min(workers.count, batches)
        if count < workers.count:
            several = f"{batches} batches" if batches > 1 else "one batch"
            note(f"the rows fit into {several}: using {count} of {workers.count} processes")
        if count == 1:
            if workers.count > 1:
                prepare(workers.machine)
            return here(tasks, on_result)
        with temporary_folder() as folder:
            return _divide(tasks, count, workers, opened, folder, tell, on_result)

    return compute


def _divide(
    tasks: Sequence[Task],
    count: int,
    workers: Workers,
    opened: Opened,
    folder: Path,
    tell: OnProgress,
    on_result: OnResult,
) -> list[list[Any]]:
    files = [WorkerFiles(folder, number) for number in range(count)]
    for own in files:
        write_atomic(own.share, json.dumps(_share(tasks, own.number, count, workers, opened)))
    device, tell_rows = opened.manifest.plan.device.value, row_progress(tasks, tell)
    with StopSignal(is_noted=True).listening() as stop:
        environments = worker_environments(os.environ, count, device, workers.machine)
        found: dict[tuple[int, int], list[Any]] = {}
        parts = [_Part(own.part) for own in files]

        def gather() -> None:
            for task, batch, items in (line for part in parts for line in part.new_lines()):
                found[task, batch] = items
                for place, one in zip(tasks[task].batches[batch], items, strict=True):
                    on_result(task, place, one)

        def tell_all(done: int) -> None:
            gather()
            tell_rows(done)

        try:
            run_workers(folder, environments, tell_all, lambda: stop.number)
        finally:
            gather()
    return [
        task.in_order([found[position, number] for number in range(len(task.batches))])
        for position, task in enumerate(tasks)
    ]


def _share(tasks: Sequence[Task], number: int, count: int, workers: Workers, opened: Opened) -> dict[str, Any]:
    """The work of one process: every `count`-th batch of each task, so that all shares have similar lengths."""
    return {
        "run": str(opened.run.path.absolute()),
        "at": [str(opened.run.adapter), opened.run.step] if isinstance(opened.run, RunAtStep) else None,
        "base": str(workers.base.absolute()) if workers.base else None,
        "dtype": workers.dtype,
        "force": workers.force,
        "against": str(workers.against.absolute()) if workers.against else None,
        "beside": {name: str(path.absolute()) for name, path in workers.beside.items()},
        "processes": count,
        "tasks": [
            {
                "kind": task.kind,
                "weights": task.weights,
                "generation": task.generation.model_dump_json() if task.generation else None,
                "batches": [
                    (batch, task.batch_draws(batch), task.batch(batch))
                    for batch in range(number, len(task.batches), count)
                ],
            }
            for task in tasks
        ],
    }


@dataclass
class _Part:
    """The results of a process, read as it writes them."""

    file: Path
    read: int = 0
    """Bytes of the lines that were read."""

    def new_lines(self) -> Iterator[tuple[int, int, list[Any]]]:
        """Results since the last call: index of the task, of the batch, and its items. A partial line is left."""
        if not self.file.exists():
            return
        with self.file.open("rb") as part:
            part.seek(self.read)
            for line in part:
                if line.endswith(b"\n"):
                    self.read += len(line)
                    yield json.loads(line)


def initialise_in_subprocess(run: RunDir, device: str, machine: Machine) -> None:
    """Compute the initialisation of a run's adapter in a process of its own, which then frees its memory.

    Raises:
        LoransError: the error of that process.
    """
    with temporary_folder() as folder:
        own = WorkerFiles(folder, 0)
        write_atomic(own.share, json.dumps({"run": str(run.path.absolute()), "processes": 1, "begins": True}))
        environments = worker_environments(os.environ, 1, device, machine)
        run_workers(own.folder, environments, lambda _: None, lambda: 0)  # a signal raises here: see `StopSignal`


def work(files: WorkerFiles) -> None:
    """Compute a share, as one of the worker processes. Raises `LoransError` like the commands that use a run."""
    share = json.loads(files.share.read_text(encoding="utf-8"))
    place = Path(share["run"])
    if not is_artefact(place):
        RunDir.open(place)  # what is wrong with it needs no library
    prepare(detect(), share["processes"])
    if share.get("begins"):
        from lora_ns.training.fit import initialise_alone

        initialise_alone(RunDir(place))
        return
    force = Force(lambda _: None) if share.get("force") else Force()
    base, against = (Path(share[name]) if share.get(name) else None for name in ("base", "against"))
    if at := share.get("at"):
        opened = open_run(RunAtStep(place, Path(at[0]), at[1]), base, share.get("dtype"), force)
    else:
        opened = open_place(place, base, share.get("dtype"), force, against)
    beside = {name: open_place(Path(path), base, share["dtype"], force) for name, path in share["beside"].items()}
    weights = Weights(opened.load(), beside)
    with files.done.open("ab", buffering=0) as done, files.part.open("ab", buffering=0) as part:
        for position, task in enumerate(share["tasks"]):
            generation = Generation.model_validate_json(task["generation"]) if task["generation"] else None
            for batch, draws, items in task["batches"]:
                with weights.using(task["weights"]) as trained:
                    found = compute_batch(trained, task["kind"], items, generation, draws)
                part.write(f"{json.dumps([position, batch, found])}\n".encode())
                done.write(b"." * len(items))
