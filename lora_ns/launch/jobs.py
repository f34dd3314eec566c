"""Jobs for a scheduler: the recipe as it was submitted, stored in the run directory.

```
RUN/jobs/1/job.json      the recipe and the scheduler's job id
RUN/jobs/1/...           files of the scheduler: scripts and logs
```

A job is frozen: editing the recipe while the job is queued does not change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lora_ns.errors import Problem, UsageError, first_line
from lora_ns.files.disk import now, telling_disk_errors, write_atomic
from lora_ns.files.reading import read_bytes
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.run.directory import RunDir

SchedulerName = Literal["slurm", "ray"]


Mode = Literal["new", "overwrite", "resume"]


class SweepWork(BaseModel):
    """What a job contributes to a sweep: it trains trials until there are enough."""

    model_config = ConfigDict(frozen=True)

    values: tuple[str, ...]
    """The values of `--set`."""
    trials: int
    metric: str
    sampler: Literal["grid", "random", "tpe"]
    use_cache: bool = True


class Job(BaseModel):
    """A run or a part of a sweep that a scheduler starts, and restarts if it is stopped."""

    model_config = ConfigDict(frozen=True)

    scheduler: SchedulerName
    mode: Mode
    """The mode of the first start; each later start resumes the run."""
    submitted: str
    run: str
    """The run directory or the folder of the sweep, absolute."""
    recipe_path: str
    recipe_text: str
    accelerate_text: str | None = None
    """Content of the accelerate file that the recipe names."""
    overrides: tuple[str, ...]
    working_folder: str
    nodes: int = 1
    options: dict[str, str] = {}
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    """The scheduler's job id; None before the job is submitted."""
    logs: str | None = None
    """The folder of the job's logs, if they are files."""
    sweep: SweepWork | None = None
    """None for a run."""

    def recipe(self, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
        """The recipe as it was submitted. Raises `RecipeError`, though only under another version of lorans."""
        all_overrides = [*self.overrides, *overrides]
        return load_recipe(Path(self.recipe_path), all_overrides, self.recipe_text, self.accelerate_text)


@dataclass(frozen=True)
class JobState:
    """The state of a job, as its scheduler reports it."""

    state: str
    """The scheduler's name for the state, such as `PENDING`."""
    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    is_over: bool = False


def new_job(job: Job) -> Path:
    """Write a job into a new folder of its run, and return the folder."""
    jobs = RunDir(Path(job.run)).jobs
    with telling_disk_errors(jobs):
        jobs.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(folder.name) for folder in jobs.iterdir() if folder.name.isdecimal()), default=0)
        folder = jobs / str(number)
        folder.mkdir()
    write_job(folder, job)
    return folder


def write_job(folder: Path, job: Job) -> None:
    """Write or update the file of a job."""
    write_atomic(folder / "job.json", job.model_dump_json(indent=2) + "\n")


def read_job(folder: Path) -> Job:
    """The job of a folder. Raises `UsageError` if there is none."""
    file = folder / "job.json"
    try:
        return Job.model_validate_json(read_bytes(file, before="not a job: "))
    except ValidationError as error:
        what = f"not a job: {first_line(error)}"
        raise UsageError(Problem(str(file), what, "`lorans submit` writes it")) from None


def submitted_jobs(run: RunDir) -> Iterator[tuple[Path, Job]]:
    """Yield folder and record of the jobs that were submitted, the last one first."""
    if not run.jobs.is_dir():
        return
    folders = [folder for folder in run.jobs.iterdir() if folder.name.isdecimal() and (folder / "job.json").is_file()]
    for folder in sorted(folders, key=lambda folder: int(folder.name), reverse=True):
        job = read_job(folder)
        if job.id is not None:
            yield folder, job


def last_job(run: RunDir) -> tuple[Path, Job] | None:
    """The folder and record of the last job that was submitted; None if there is none."""
    return next(submitted_jobs(run), None)


def make_job(loaded: LoadedRecipe, scheduler: SchedulerName, mode: Mode, options: dict[str, str], folder: Path) -> Job:
    """The job of a recipe.

    Args:
        loaded: the recipe.
        scheduler: the scheduler that starts the job.
        mode: the treatment of an existing run.
        options: options of the scheduler, by its own names.
        folder: the working folder, against which relative paths are resolved.
    """
    return Job(
        scheduler=scheduler,
        mode=mode,
        submitted=now(),
        run=str(RunDir.of(loaded.recipe).path),
        recipe_path=str(loaded.path.absolute()),
        recipe_text=loaded.text,
        accelerate_text=loaded.filled.file.text if loaded.filled.file else None,
        overrides=loaded.overrides,
        working_folder=str(folder),
        nodes=loaded.recipe.distributed.nodes,
        options=options,
    )
