"""Runs that a scheduler starts: submitted, and looked after."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Protocol

from lora_ns.data.named_files import check_named_files
from lora_ns.errors import Problem, UsageError
from lora_ns.launch.jobs import Job, JobState, Mode, SchedulerName, last_job, make_job, new_job, write_job
from lora_ns.launch.schedulers import ray as on_ray
from lora_ns.launch.schedulers import slurm as on_slurm
from lora_ns.machine.packages import check_packages
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import LAST_STEP, read_metrics
from lora_ns.safety.credentials import scrubbed


class Scheduler(Protocol):
    """Who starts jobs."""

    def script(self, jobs: Sequence[tuple[Path, Job]]) -> str:
        """What it is handed."""

    def submit(self, jobs: Sequence[tuple[Path, Job]]) -> list[str]:
        """Hand it jobs, each with its folder; its names for them."""


@dataclass(frozen=True)
class Submitted:
    """A job that waits for its nodes."""

    run: str
    scheduler: SchedulerName
    id: str


@dataclass(frozen=True)
class RunStatus:
    """How a run goes, by its manifest and its scheduler."""

    run: str
    status: str
    """As in the manifest; `submitted` before there is one."""
    step: int = 0
    max_steps: int | None = None
    metrics: dict[str, float] | None = None
    """The last row."""
    updated: str | None = None
    error: str | None = None
    replaces: str | None = None
    """The status of a run that is put aside until this one has completed a step."""
    scheduler: SchedulerName | None = None
    id: str | None = None
    job: JobState | None = None
    notes: tuple[str, ...] = ()
    """What of the run could not be read."""


_SCHEDULERS: dict[SchedulerName, ModuleType] = {"slurm": on_slurm, "ray": on_ray}


def submit(
    recipes: Sequence[LoadedRecipe],
    name: SchedulerName,
    scheduler: Scheduler,
    mode: Mode,
    options: dict[str, str],
    tell: Callable[[str], None] = lambda _: None,
) -> list[Submitted]:
    """Hand the runs of recipes to a scheduler.

    Args:
        recipes: one, or several that become an array where the scheduler has such.
        name: of the scheduler.
        scheduler: the scheduler.
        mode: what is done with runs that are there.
        options: the scheduler's own, kept with the job.
        tell: told of a run that a killed command had put aside and that is brought back.

    Raises:
        LoransError: nothing is left of a job that was not taken.
    """
    made = _jobs_of(recipes, name, mode, options)
    for job in made:
        RunDir(Path(job.run)).mend(tell)
        _check_run(job)
    written = [(new_job(job), job) for job in made]
    try:
        ids = scheduler.submit(written)
    except BaseException:
        for folder, job in written:
            _forget(folder, job)
        raise
    for (folder, job), number in zip(written, ids, strict=True):
        write_job(folder, job.model_copy(update={"id": number, "logs": str(written[0][0])}))
    return [Submitted(job.run, name, number) for job, number in zip(made, ids, strict=True)]


def script(
    recipes: Sequence[LoadedRecipe],
    name: SchedulerName,
    scheduler: Scheduler,
    mode: Mode,
    options: dict[str, str],
) -> str:
    """What a scheduler would be handed; nothing is written. Arguments as of `submit`. Raises `LoransError`."""
    made = _jobs_of(recipes, name, mode, options)
    return scheduler.script([(RunDir(Path(job.run)).jobs / "N", job) for job in made])


def _jobs_of(recipes: Sequence[LoadedRecipe], name: SchedulerName, mode: Mode, options: dict[str, str]) -> list[Job]:
    """The jobs of recipes. Raises `UsageError`, `MissingError`."""
    for loaded in recipes:
        check_named_files(loaded)
        with locating(loaded):
            check_packages(loaded.recipe)
    made = [make_job(loaded, name, mode, options, Path.cwd()) for loaded in recipes]
    runs = [job.run for job in made]
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice is not None:
        raise UsageError(Problem(twice, "two recipes have this `training.output_dir`", "give each its own"))
    return made


def _check_run(job: Job) -> None:
    """The place of a run is free, or has what is gone on with. Raises `UsageError`."""
    run = RunDir(Path(job.run))
    if (found := last_job(run)) and not (told := _SCHEDULERS[found[1].scheduler].state(found[1])).is_over:
        what = f"job {found[1].id} of this run is {told.state} already"
        raise UsageError(Problem(job.run, what, f"`lorans status {job.run}` looks after it"))
    if job.mode != "resume":
        run.check_free(job.mode == "overwrite")
        return
    if RunDir.open(run.path).read().status == "finished":
        raise UsageError(Problem(job.run, "this run is finished", f"`lorans infer {job.run}` uses it"))


def _forget(folder: Path, job: Job) -> None:
    """Leave nothing of a job that was not taken."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in (folder.parent, Path(job.run)):
        with contextlib.suppress(OSError):  # which is what a folder with something else in it raises
            parent.rmdir()


def status(path: Path) -> RunStatus:
    """How a run goes.

    Raises:
        UsageError: if the folder has neither a run nor a job.
        LoransError: if the scheduler does not answer.
    """
    run, aside = RunDir(path), RunDir(path).put_aside
    found = last_job(run)
    if aside and not run.manifest_file.is_file():
        run = aside
    if found is None and not run.manifest_file.is_file():
        raise UsageError(Problem(str(path), "neither a run nor a job", "name the `output_dir` of a recipe"))
    job = found[1] if found else None
    told = _SCHEDULERS[job.scheduler].state(job) if job else None
    shown = RunStatus(str(path), "submitted")
    if run.manifest_file.is_file():
        manifest = run.read()
        last = manifest.plan.max_steps.value
        found_rows = read_metrics(run.metrics, LAST_STEP if last is None else last)
        row = found_rows.rows[-1] if found_rows.rows else {}
        shown = RunStatus(
            str(path),
            manifest.status,
            int(row.get("step", 0)),
            last,
            row or None,
            manifest.updated,
            scrubbed(manifest.error) if manifest.error else None,
            aside.read().status if aside else None,
            notes=found_rows.left_out(str(run.metrics)),
        )
    if job is None:
        return shown
    return replace(shown, scheduler=job.scheduler, id=job.id, job=told)


def log(path: Path) -> str:
    """What the job of a run said. Raises `UsageError` if the run was not submitted."""
    found = last_job(RunDir(path))
    if found is None:
        raise UsageError(Problem(str(path), "this run was not submitted", f"{RunDir(path).log} is its log"))
    return str(_SCHEDULERS[found[1].scheduler].log(*found))
