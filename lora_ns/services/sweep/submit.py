"""A sweep on a cluster: jobs that take trials from one folder until there are enough."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_ns.data.named_files import check_named_files
from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.reading import is_file
from lora_ns.launch.jobs import Job, JobState, SchedulerName, SweepWork, last_job, make_job, submitted_jobs
from lora_ns.machine.packages import check_packages
from lora_ns.recipe.load import locating
from lora_ns.run.directory import RunDir
from lora_ns.services.submit import Scheduler, Submitted, log_of, script_of, state_of, submit_jobs
from lora_ns.services.sweep.run import Checked, SweepRequest, check_request
from lora_ns.services.sweep.study import SweepDir, read_trials


@dataclass(frozen=True)
class SweepJob:
    """A job of a sweep."""

    scheduler: SchedulerName
    id: str
    state: JobState


@dataclass(frozen=True)
class SweepStatus:
    """The state of a sweep, from its folder and the schedulers of its jobs."""

    sweep: str
    status: str
    """`submitted`, `running`, `finished` if there are enough trials, or `stopped` if nothing trains more of them."""
    done: int
    """Number of trials that have a result."""
    trials: int | None
    """Number of trials that were asked for; None in sweeps of old versions."""
    jobs: tuple[SweepJob, ...] = ()
    """The jobs, in the order in which they were submitted."""
    notes: tuple[str, ...] = ()


def submit_sweep(
    request: SweepRequest, count: int, name: SchedulerName, scheduler: Scheduler, options: dict[str, str]
) -> list[Submitted]:
    """Submit jobs that share a sweep. More jobs can be submitted for a sweep that has begun.

    Args:
        request: the sweep.
        count: number of jobs.
        name: name of the scheduler.
        scheduler: the scheduler.
        options: options of the scheduler, stored with the jobs.

    Raises:
        LoransError: if the recipe, a key or a value is wrong, or the scheduler refuses a job; nothing is left then.
    """
    return submit_jobs(_jobs(request, count, name, options), name, scheduler)


def sweep_script(
    request: SweepRequest, count: int, name: SchedulerName, scheduler: Scheduler, options: dict[str, str]
) -> str:
    """The text that a scheduler would receive; writes nothing. Arguments as in `submit_sweep`. Raises `LoransError`."""
    return script_of(_jobs(request, count, name, options), scheduler)


def _jobs(request: SweepRequest, count: int, name: SchedulerName, options: dict[str, str]) -> list[Job]:
    """The jobs of a sweep, all alike. Raises `LoransError`."""
    checked = check_request(request)
    loaded, folder = checked.loaded, checked.folder
    check_named_files(loaded)
    with locating(loaded):
        check_packages(loaded.recipe)
    part = SweepWork(
        values=request.overrides,
        trials=checked.trials,
        metric=request.metric,
        sampler=checked.sampler,
        use_cache=request.use_cache,
    )
    job = make_job(loaded, name, "new", options, Path.cwd())
    job = job.model_copy(update={"run": str(folder.path), "nodes": 1, "sweep": part})
    _check_folder(checked, job)
    return [job] * count


def _check_folder(checked: Checked, job: Job) -> None:
    """Check that the folder is free, or has this sweep in it with trials left. Raises `UsageError`."""
    folder = checked.folder
    folder.check_free()
    if is_file(folder.design_file):
        folder.check_same(folder.design(), checked.design(job.sweep.metric if job.sweep else ""))
        if len(read_trials(folder)[0]) >= checked.trials:
            what = f"this sweep has its {checked.trials} trials"
            raise UsageError(
                Problem(str(folder.path), what, "write a larger `--trials`, or choose another folder with -o")
            )
    elif found := last_job(RunDir(folder.path)):
        earlier = found[1]
        if earlier.sweep is None:
            what = "a run was submitted with this folder"
            raise UsageError(Problem(str(folder.path), what, "choose another folder with -o"))
        if _asked(earlier) != _asked(job) and not state_of(earlier).is_over:
            what = f"job {earlier.id} is submitted for another sweep with this folder"
            raise UsageError(Problem(str(folder.path), what, "choose another folder with -o"))


def _asked(job: Job) -> object:
    """What must not differ between the jobs of a sweep."""
    return job.recipe_text, job.sweep and job.sweep.model_copy(update={"trials": 0, "use_cache": True})


def status_of_sweep(path: Path) -> SweepStatus | None:
    """The state of a sweep; None if the folder is that of a run, or of nothing. Raises `UsageError`."""
    folder, last = SweepDir(path), last_job(RunDir(path))
    has_begun = is_file(folder.design_file)
    if not has_begun and not (last and last[1].sweep):
        return None
    read, notes = read_trials(folder)
    trials = folder.trials() if has_begun else last[1].sweep.trials if last and last[1].sweep else None
    jobs = []
    for _, job in [*submitted_jobs(RunDir(path))][::-1]:
        try:
            state = state_of(job)
        except LoransError as error:  # of a cluster that is gone
            state = JobState("UNKNOWN", str(error.problems[0].what), is_over=True)
        jobs.append(SweepJob(job.scheduler, str(job.id), state))
    states = [job.state for job in jobs]
    if folder.in_training() or any(state.state == "RUNNING" for state in states):
        status = "running"
    elif trials is not None and len(read) >= trials:
        status = "finished"
    else:
        status = "submitted" if any(not state.is_over for state in states) else "stopped"
    return SweepStatus(str(path), status, len(read), trials, tuple(jobs), tuple(notes))


def log_of_sweep(path: Path) -> str | None:
    """The output of all jobs of a sweep, each under its id; None if no job of a sweep was submitted here."""
    last = last_job(RunDir(path))
    if last is None or last[1].sweep is None:
        return None
    parts = []
    for folder, job in [*submitted_jobs(RunDir(path))][::-1]:
        try:
            text = log_of(folder, job)
        except LoransError as error:
            text = f"{error.problems[0].what}\n"
        parts.append(f"== {job.scheduler} {job.id} ==\n{text}")
    return "".join(parts)
