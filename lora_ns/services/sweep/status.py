"""The state of a sweep: its trials, and the jobs that train them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import LoransError
from lora_ns.files.reading import is_file
from lora_ns.launch.jobs import Job, JobState, SchedulerName, last_job, submitted_jobs
from lora_ns.run.directory import RunDir
from lora_ns.services.submit import log_of, state_of
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


def status_of_sweep(path: Path) -> SweepStatus | None:
    """The state of a sweep; None if the folder is that of a run, or of nothing. Raises `UsageError`."""
    folder, submitted = SweepDir(path), _jobs_of(path)
    has_begun = is_file(folder.design_file)
    if not has_begun and not submitted:
        return None
    read, notes = read_trials(folder)
    trials = folder.trials() if has_begun else max(job.sweep.trials for _, job in submitted if job.sweep)
    jobs = tuple(SweepJob(job.scheduler, str(job.id), _state_of(job)) for _, job in submitted)
    if folder.in_training() or any(job.state.state == "RUNNING" for job in jobs):
        status = "running"
    elif trials is not None and len(read) >= trials:
        status = "finished"
    else:
        status = "submitted" if any(not job.state.is_over for job in jobs) else "stopped"
    return SweepStatus(str(path), status, len(read), trials, jobs, tuple(notes))


def log_of_sweep(path: Path) -> str | None:
    """The output of all jobs of a sweep, each under its id; None if no job of a sweep was submitted here."""
    parts = []
    for folder, job in _jobs_of(path):
        try:
            text = log_of(folder, job)
        except LoransError as error:
            text = f"{error.problems[0].what}\n"
        parts.append(f"== {job.scheduler} {job.id} ==\n{text}")
    return "".join(parts) or None


def _jobs_of(path: Path) -> list[tuple[Path, Job]]:
    """Folder and record of the jobs of a sweep, in the order in which they were submitted; none for those of a run."""
    run = RunDir(path)
    last = last_job(run)
    return [*submitted_jobs(run)][::-1] if last and last[1].sweep else []


def _state_of(job: Job) -> JobState:
    """The state of a job; unknown, and over, if its cluster is gone."""
    try:
        return state_of(job)
    except LoransError as error:
        return JobState("UNKNOWN", str(error.problems[0].what), is_over=True)
