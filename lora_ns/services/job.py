"""The work of a scheduler job on a node: start or resume its run, or take part in its sweep."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.launch.jobs import Job, SweepWork, read_job
from lora_ns.machine.libraries import Noise
from lora_ns.parallel.nodes import own_folder
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer
from lora_ns.services.resume import resume
from lora_ns.services.sweep.result import SweepResult
from lora_ns.services.sweep.run import SweepRequest, sweep
from lora_ns.services.train import train
from lora_ns.training.fit import TrainResult

_PATIENCE = 60.0
"""Seconds until a shared disk shows the files of another machine."""


_MOST_ATTEMPTS = 3
"""How often a trial of a sweep may begin: a scheduler queues a job again whose time is over, however short that is."""


def work(
    folder: Path, node: int, endpoint: str | None, observer: Observer, noise: Noise
) -> TrainResult | SweepResult | None:
    """Train the run of a job on one of its nodes, or trials of its sweep.

    Args:
        folder: the folder of the job.
        node: index of this node within the job.
        endpoint: rendezvous address of the nodes, if there are several.
        observer: receives progress and warnings.
        noise: library output, written to the run's log.

    Returns:
        The result; None if an earlier start of the job has finished the run.

    Raises:
        LoransError: like `train`, `resume` and `sweep`.
    """
    job = _seen(folder)
    _enter(job)
    if job.sweep is not None:
        return sweep(_request(job, job.sweep), observer, noise)
    loaded = job.recipe(_placed(job, node, endpoint))
    run = RunDir(_own_run(loaded, node))
    run.mend(observer.warn)
    if not _has_begun(run, job):
        return train(loaded, observer, noise, overwrite=job.mode != "new")
    manifest = run.read()
    if manifest.is_complete or (manifest.status == "finished" and job.mode != "resume"):
        observer.warn(f"{run.path} is already finished")
        return None
    return resume(run, observer, noise, loaded)


def _request(job: Job, part: SweepWork) -> SweepRequest:
    """The request of a sweep in which this job takes part."""
    return SweepRequest(
        Path(job.recipe_path),
        part.values,
        part.trials,
        part.metric,
        part.sampler,
        Path(job.run),
        is_worker=True,
        use_cache=part.use_cache,
        text=job.recipe_text,
        most_attempts=_MOST_ATTEMPTS,
    )


def _seen(folder: Path) -> Job:
    """Read the job of a folder, after waiting for a shared disk to show it to this node."""
    until = time.monotonic() + _PATIENCE
    while not (folder / "job.json").exists() and time.monotonic() < until:
        time.sleep(1)
    return read_job(folder)


def _enter(job: Job) -> None:
    """Change to the folder from which the job was submitted, since paths are relative to it. Raises `UsageError`."""
    try:
        os.chdir(job.working_folder)
    except OSError as error:
        what = f"cannot be entered on this node: {error.strerror}"
        raise UsageError(Problem(job.working_folder, what, "submit from a folder that all nodes have")) from None


def _placed(job: Job, node: int, endpoint: str | None) -> tuple[str, ...]:
    """Overrides that depend on the node: its own run directory, and the rendezvous address."""
    if job.nodes == 1:
        return ()
    path = job.run if node == 0 else f"{job.run}.node-{node}"
    return (f'training.output_dir="{path}"', f'distributed.rdzv_endpoint="{endpoint}"')


def _own_run(loaded: LoadedRecipe, node: int) -> Path:
    """The run directory of this node, which had the name of another machine if the previous start ran there."""
    path = RunDir.of(loaded.recipe).path
    own = own_folder(path, loaded.recipe.distributed)
    if node and not own.exists():
        for earlier in sorted(path.parent.glob(f"{path.name}.at-*")):
            with contextlib.suppress(OSError):  # with a separate disk for each machine, there is none
                earlier.rename(own)
    return own


def _has_begun(run: RunDir, job: Job) -> bool:
    """Test for a run to resume: one that this job started, or the one that it was submitted to resume."""
    if not run.manifest_file.exists():
        return False
    if job.mode == "resume":
        return True
    return datetime.fromisoformat(run.read().created) >= datetime.fromisoformat(job.submitted)
