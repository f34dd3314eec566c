"""Submitting runs to a scheduler, and reporting their state."""

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
    """A scheduler that starts jobs."""

    def script(self, jobs: Sequence[tuple[Path, Job]]) -> str:
        """The script or commands that the scheduler would receive."""

    def submit(self, jobs: Sequence[tuple[Path, Job]]) -> list[str]:
        """Submit jobs, each with its folder, and return their ids."""


@dataclass(frozen=True)
class Submitted:
    """A submitted job."""

    run: str
    scheduler: SchedulerName
    id: str


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, from its manifest and its scheduler."""

    run: str
    status: str
    """Status in the manifest; `submitted` before there is a manifest."""
    step: int = 0
    max_steps: int | None = None
    metrics: dict[str, float] | None = None
    """The last row of metrics."""
    updated: str | None = None
    error: str | None = None
    replaces: str | None = None
    """Status of the previous run, which is kept until this one has completed a step."""
    scheduler: SchedulerName | None = None
    id: str | None = None
    job: JobState | None = None
    notes: tuple[str, ...] = ()
    """Warnings about files of the run that could not be read."""


_SCHEDULERS: dict[SchedulerName, ModuleType] = {"slurm": on_slurm, "ray": on_ray}


def submit(
    recipes: Sequence[LoadedRecipe],
    name: SchedulerName,
    scheduler: Scheduler,
    mode: Mode,
    options: dict[str, str],
    tell: Callable[[str], None] = lambda _: None,
) -> list[Submitted]:
    """Submit the runs of recipes to a scheduler.

    Args:
        recipes: one recipe, or several, which become an array if the scheduler has arrays.
        name: name of the scheduler.
        scheduler: the scheduler.
        mode: the treatment of existing runs.
        options: options of the scheduler, stored with the job.
        tell: called with a note about a run that a killed command had put aside and that is restored.

    Raises:
        LoransError: if the scheduler refuses a job; nothing is left of it then.
    """
    made = _jobs_of(recipes, name, mode, options)
    for job in made:
        RunDir(Path(job.run)).mend(tell)
        _check_run(job)
    return submit_jobs(made, name, scheduler)


def submit_jobs(made: Sequence[Job], name: SchedulerName, scheduler: Scheduler) -> list[Submitted]:
    """Write jobs and submit them. Raises `LoransError` if the scheduler refuses one; nothing is left of them then."""
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
    """The text that a scheduler would receive; writes nothing. Arguments as in `submit`. Raises `LoransError`."""
    return script_of(_jobs_of(recipes, name, mode, options), scheduler)


def script_of(made: Sequence[Job], scheduler: Scheduler) -> str:
    """The text that a scheduler would receive for jobs. Raises `LoransError`."""
    return scheduler.script([(RunDir(Path(job.run)).jobs / "N", job) for job in made])


def _jobs_of(recipes: Sequence[LoadedRecipe], name: SchedulerName, mode: Mode, options: dict[str, str]) -> list[Job]:
    """The jobs of recipes. Raises `UsageError` and `MissingError`."""
    for loaded in recipes:
        check_trainable(loaded)
    made = [make_job(loaded, name, mode, options, Path.cwd()) for loaded in recipes]
    runs = [job.run for job in made]
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice is not None:
        raise UsageError(Problem(twice, "two recipes have this `training.output_dir`", "give each its own"))
    return made


def check_trainable(loaded: LoadedRecipe) -> None:
    """Check that what a recipe names is there, for nodes like this one. Raises `UsageError` and `MissingError`."""
    check_named_files(loaded)
    with locating(loaded):
        check_packages(loaded.recipe)


def _check_run(job: Job) -> None:
    """Check that the run directory is free, or holds a run to resume. Raises `UsageError`."""
    run = RunDir(Path(job.run))
    if (found := last_job(run)) and not (state := state_of(found[1])).is_over:
        what = f"job {found[1].id} of this run is already {state.state}"
        raise UsageError(Problem(job.run, what, f"`lorans status {job.run}` shows its state"))
    if job.mode != "resume":
        run.check_free(job.mode == "overwrite")
        return
    if RunDir.open(run.path).read().is_complete:
        raise UsageError(Problem(job.run, "this run is finished", f"`lorans infer {job.run}` uses it"))


def _forget(folder: Path, job: Job) -> None:
    """Remove the files of a job that the scheduler refused."""
    shutil.rmtree(folder, ignore_errors=True)
    for parent in (folder.parent, Path(job.run)):
        with contextlib.suppress(OSError):  # raised for a folder that is not empty
            parent.rmdir()


def state_of(job: Job) -> JobState:
    """The state of a job in its scheduler. Raises `LoransError` if that does not respond."""
    found: JobState = _SCHEDULERS[job.scheduler].state(job)
    return found


def status(path: Path) -> RunStatus:
    """The state of a run.

    Raises:
        UsageError: if the folder has neither a run nor a job.
        LoransError: if the scheduler does not respond.
    """
    run, aside = RunDir(path), RunDir(path).put_aside
    found = last_job(run)
    if aside and not run.manifest_file.is_file():
        run = aside
    if found is None and not run.manifest_file.is_file():
        raise UsageError(Problem(str(path), "neither a run nor a job", "name the `output_dir` of a recipe"))
    job = found[1] if found else None
    state = state_of(job) if job else None
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
    return replace(shown, scheduler=job.scheduler, id=job.id, job=state)


def log(path: Path) -> str:
    """The log of a run's last job. Raises `UsageError` if the run was not submitted."""
    found = last_job(RunDir(path))
    if found is None:
        raise UsageError(Problem(str(path), "this run was not submitted", f"its log is {RunDir(path).log}"))
    return log_of(*found)


def log_of(folder: Path, job: Job) -> str:
    """The log of a job. Raises `LoransError` if its scheduler does not respond."""
    return str(_SCHEDULERS[job.scheduler].log(folder, job))
