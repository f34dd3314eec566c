"""What a job does on a node: it begins its run, or goes on with what an earlier start of it began."""

from __future__ import annotations

import contextlib
import os
import time
from datetime import datetime
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.launch.jobs import Job, read_job
from lora_ns.machine.libraries import Noise
from lora_ns.parallel.nodes import own_folder
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.run.directory import RunDir
from lora_ns.run.observer import Observer
from lora_ns.services.resume import resume
from lora_ns.services.train import train
from lora_ns.training.fit import TrainResult

_PATIENCE = 60.0
"""Seconds until a shared disk shows what another machine wrote."""


def work(folder: Path, node: int, endpoint: str | None, observer: Observer, noise: Noise) -> TrainResult | None:
    """Train the run of a job, on one of its nodes.

    Args:
        folder: the job's.
        node: the number of this node among the job's.
        endpoint: where the nodes meet, if they are several.
        observer: who is told.
        noise: goes on in the run's log.

    Returns:
        The result; None if an earlier start of the job had finished the run.

    Raises:
        LoransError: as `train` and `resume` do.
    """
    job = _seen(folder)
    _enter(job)
    loaded = job.recipe(_placed(job, node, endpoint))
    run = RunDir(_own_run(loaded, node))
    run.mend(observer.warn)
    if not _has_begun(run, job):
        return train(loaded, observer, noise, overwrite=job.mode != "new")
    if run.read().status == "finished":
        observer.warn(f"{run.path} is finished already")
        return None
    return resume(run, observer, noise, loaded)


def _seen(folder: Path) -> Job:
    """The job of a folder, which a shared disk may show to this node only after a while."""
    until = time.monotonic() + _PATIENCE
    while not (folder / "job.json").exists() and time.monotonic() < until:
        time.sleep(1)
    return read_job(folder)


def _enter(job: Job) -> None:
    """Be where the job was submitted: relative paths start there."""
    try:
        os.chdir(job.working_folder)
    except OSError as error:
        what = f"cannot be entered on this node: {error.strerror}"
        raise UsageError(Problem(job.working_folder, what, "submit from a folder that all nodes have")) from None


def _placed(job: Job, node: int, endpoint: str | None) -> tuple[str, ...]:
    """What of the recipe depends on the node: each keeps a run of its own, and all have to meet."""
    if job.nodes == 1:
        return ()
    path = job.run if node == 0 else f"{job.run}.node-{node}"
    return (f'training.output_dir="{path}"', f'distributed.rdzv_endpoint="{endpoint}"')


def _own_run(loaded: LoadedRecipe, node: int) -> Path:
    """The run of this node, which a scheduler may have given to another machine at the start before."""
    path = RunDir.of(loaded.recipe).path
    own = own_folder(path, loaded.recipe.distributed)
    if node and not own.exists():
        for earlier in sorted(path.parent.glob(f"{path.name}.at-*")):
            with contextlib.suppress(OSError):  # where each machine has a disk of its own, there is none
                earlier.rename(own)
    return own


def _has_begun(run: RunDir, job: Job) -> bool:
    """Whether there is something to go on with: of this job, or what it was submitted for."""
    if not run.manifest_file.exists():
        return False
    if job.mode == "resume":
        return True
    return datetime.fromisoformat(run.read().created) >= datetime.fromisoformat(job.submitted)
