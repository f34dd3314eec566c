"""`lorans job`: a scheduler starts it on each node of a job."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.show import Progress
from lora_ns.cli.terminal import say


def job(
    folder: Annotated[Path, typer.Argument(metavar="JOB")],
    node: Annotated[int, typer.Option("--node", min=0)] = 0,
    rdzv_endpoint: Annotated[str | None, typer.Option("--rdzv-endpoint")] = None,
    on_ray: Annotated[bool, typer.Option("--on-ray", help="Have Ray place the nodes.")] = False,
    end_with_parent: Annotated[bool, typer.Option("--end-with-parent", help="Stop when the parent is gone.")] = False,
) -> None:
    """Do the work of a job, a run or a part of a sweep; a scheduler starts this command."""
    # A scheduler warns all processes of a job before it ends; the parent asks this one to stop.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)

    if on_ray:
        from lora_ns.launch.schedulers.ray import drive

        drive(folder.absolute())
        return
    if end_with_parent:
        from lora_ns.launch import workers

        workers.end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))

    from lora_ns.machine.libraries import Noise
    from lora_ns.services.job import work
    from lora_ns.services.sweep.result import SweepResult

    with Progress(2) as progress, Noise() as noise:
        result = work(folder.absolute(), node, rdzv_endpoint, progress, noise)
    if isinstance(result, SweepResult):
        say(f"{len(result.trials)} trials, the sweep is {result.folder}")
    elif result is not None:
        say(f"{result.steps} steps, the adapter is {result.adapter}")
