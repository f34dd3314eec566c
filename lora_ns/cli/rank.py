"""The command that each process of a run executes, and the one that prints how to start them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.options import RunPath
from lora_ns.cli.show import Progress
from lora_ns.errors import Problem, UsageError


def rank(
    run_path: Annotated[Path, typer.Argument(metavar="RUN")],
    launched: Annotated[bool, typer.Option("--launched", help="Started by `lorans train`.")] = False,
) -> None:
    """Be one of the processes of a run; a launcher such as torchrun starts it."""
    from lora_ns.rundir import RunDir

    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        what = "`RANK`, `LOCAL_RANK` and `WORLD_SIZE` are not set"
        raise UsageError(Problem("", what, f"`lorans launch-command {run_path}` prints what starts the processes"))
    run = RunDir.open(run_path.absolute())

    from lora_ns.engine.callbacks import SilentObserver
    from lora_ns.engine.libraries import Noise
    from lora_ns.services.ranks import Teller, telling_launcher
    from lora_ns.services.train import train_rank

    number, is_first = int(os.environ["RANK"]), os.environ["LOCAL_RANK"] == "0"
    with Progress(2) as progress, Noise() as noise, telling_launcher(run, number, launched):
        if launched and is_first:
            teller = Teller(run.ranks / "events.jsonl")
            teller.result(train_rank(run, teller, noise, is_launched=True))
        else:
            train_rank(run, progress if is_first else SilentObserver(), noise, launched)


def launch_command(run_path: RunPath) -> None:
    """Print the command that goes on with a run of several processes under a launcher of your own."""
    from lora_ns.launch import argv, settings
    from lora_ns.machine import detect
    from lora_ns.rundir import RunDir

    run = RunDir.open(run_path.absolute())
    manifest = run.read()
    count = manifest.plan.world_size.value
    if count == 1:
        raise UsageError(Problem(str(run_path), "a run of one process", f"`lorans train {run_path} --resume`"))
    if manifest.status == "finished":
        raise UsageError(Problem(str(run_path), "this run is finished", f"`lorans infer {run_path}` uses it"))
    values = [f"{name}={value}" for name, value in settings(count, detect().cores).items()]
    typer.echo(" ".join([*values, shlex.join(argv(run.path, count))]))
