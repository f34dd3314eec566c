"""A sweep on a cluster: jobs that take trials from one folder until there are enough."""

from __future__ import annotations

from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_file
from lora_ns.launch.jobs import Job, SchedulerName, SweepWork, last_job, make_job
from lora_ns.run.directory import RunDir
from lora_ns.services.submit import Scheduler, Submitted, check_trainable, script_of, state_of, submit_jobs
from lora_ns.services.sweep.run import Checked, SweepRequest, check_request
from lora_ns.services.sweep.study import read_trials


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
    check_trainable(checked.loaded)
    part = SweepWork(
        values=request.overrides,
        trials=checked.trials,
        metric=request.metric,
        sampler=checked.design.sampler,
        use_cache=request.use_cache,
    )
    job = make_job(checked.loaded, name, "new", options, Path.cwd())
    job = job.model_copy(update={"run": str(checked.folder.path), "nodes": 1, "sweep": part})
    _check_folder(checked, job)
    return [job] * count


def _check_folder(checked: Checked, job: Job) -> None:
    """Check that the folder is free, or has this sweep in it with trials left. Raises `UsageError`."""
    folder = checked.folder
    folder.check_free()
    if is_file(folder.design_file):
        folder.check_same(folder.design(), checked.design)
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
