"""A sweep on a cluster: jobs that take trials from one folder until there are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.data.named_files import check_named_files
from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_file
from lora_ns.launch.jobs import Job, JobState, SchedulerName, SweepWork, make_job, submitted_jobs
from lora_ns.machine.packages import check_packages
from lora_ns.recipe.load import locating
from lora_ns.run.directory import RunDir
from lora_ns.services.submit import Scheduler, Submitted, hand_over, script_of, state_of
from lora_ns.services.sweep.run import SweepRequest, check_request
from lora_ns.services.sweep.study import SweepDir, read_trials


@dataclass(frozen=True)
class SweepStatus:
    """The state of a sweep, from its folder and the schedulers of its jobs."""

    sweep: str
    status: str
    """`submitted`, `running`, `finished` if there are enough trials, or `stopped` if no job is left to train more."""
    done: int
    """Number of trials that have a result."""
    trials: int | None
    """Number of trials that were asked for; None if the sweep was not submitted."""
    jobs: tuple[tuple[str, SchedulerName, JobState], ...]
    """Id, scheduler and state of each job, in the order in which they were submitted."""
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
    return hand_over(_jobs(request, count, name, options), name, scheduler)


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
    if is_file(folder.path) or (folder.path.is_dir() and not _is_of_a_sweep(folder)):
        raise UsageError(Problem(str(folder.path), "is not empty and not a sweep", "choose another folder with -o"))
    part = SweepWork(
        values=request.overrides,
        trials=checked.trials,
        metric=request.metric,
        sampler=checked.sampler,
        use_cache=request.use_cache,
    )
    job = make_job(loaded, name, "new", options, Path.cwd())
    return [job.model_copy(update={"run": str(folder.path), "nodes": 1, "sweep": part})] * count


def _is_of_a_sweep(folder: SweepDir) -> bool:
    return is_file(folder.design_file) or all(file == folder.jobs for file in folder.path.iterdir())


def status_of_sweep(path: Path) -> SweepStatus | None:
    """The state of a sweep; None if the folder is that of a run, or of nothing.

    Raises:
        LoransError: if a scheduler does not respond.
    """
    folder = SweepDir(path)
    jobs = [job for _, job in submitted_jobs(RunDir(path))][::-1]
    if not is_file(folder.design_file) and not (jobs and jobs[-1].sweep):
        return None
    read, notes = read_trials(folder)
    states = tuple((str(job.id), job.scheduler, state_of(job)) for job in jobs)
    trials = max((job.sweep.trials for job in jobs if job.sweep), default=None)
    status = _status(len(read), trials, [state for _, _, state in states])
    return SweepStatus(str(path), status, len(read), trials, states, tuple(notes))


def _status(done: int, trials: int | None, states: Sequence[JobState]) -> str:
    if trials is not None and done >= trials:
        return "finished"
    waiting = [state for state in states if not state.is_over]
    if not waiting:
        return "stopped"
    return "running" if done or any(state.state == "RUNNING" for state in waiting) else "submitted"
