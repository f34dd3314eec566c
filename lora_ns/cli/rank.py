"""`lorans rank`, a process of a training, and `lorans launch-command`, which prints how to start them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import Overrides, Overwrite, TrustRemoteCode
from lora_ns.cli.show import Progress, note
from lora_ns.cli.terminal import hand_over
from lora_ns.cli.trust import trust_recipe, trust_run
from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_folder

if TYPE_CHECKING:
    from lora_ns.run.directory import RunDir


def rank(
    run_path: Annotated[Path, typer.Argument(metavar="RUN")],
    launched: Annotated[bool, typer.Option("--launched", help="Started by `lorans train`.")] = False,
) -> None:
    """Run one of the processes of a training; a launcher such as torchrun starts this command."""
    from lora_ns.launch.workers import end_done, end_with_parent
    from lora_ns.run.directory import RunDir

    if launched:
        end_with_parent()

    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        what = "`RANK`, `LOCAL_RANK` and `WORLD_SIZE` are not set"
        raise UsageError(
            Problem("", what, f"start the processes with the command that `lorans launch-command {run_path}` prints")
        )
    run = RunDir.open(run_path.absolute())

    from lora_ns.launch.ranks import LauncherObserver, reporting_to_launcher
    from lora_ns.machine.libraries import Noise
    from lora_ns.run.observer import SilentObserver
    from lora_ns.training.rank import train_rank

    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]  # the run has its own settings, whatever launches it
    number, is_first = int(os.environ["RANK"]), os.environ["LOCAL_RANK"] == "0"
    with Progress(2) as progress, Noise() as noise, reporting_to_launcher(run, number, launched):
        if launched and is_first:
            observer = LauncherObserver(run.ranks / "events.jsonl")
            observer.result(train_rank(run, observer, noise, is_launched=True))
        else:
            train_rank(run, progress if is_first else SilentObserver(), noise, launched)
    if number:  # rank 0 may have trackers to finish; while it saves the adapter, no other rank may fail
        end_done()


def launch_command(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|RECIPE",
            help="Unfinished run of several processes, or a recipe to prepare such a run from.",
            show_default=False,
            autocompletion=complete.recipes_and_runs,
        ),
    ],
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Print the command that trains a run of several processes with your own launcher."""
    from lora_ns.launch.torchrun import argv, settings
    from lora_ns.machine.hardware import detect
    from lora_ns.parallel.nodes import this_node
    from lora_ns.plan.processes import count_here
    from lora_ns.recipe.distributed import Processes
    from lora_ns.run.directory import RunDir

    if is_folder(path):
        RunDir(path.absolute()).mend(note)
        run = RunDir.open(path.absolute())
        trust_run(trust_remote_code, run)
    else:
        run = _prepared(path, overrides, overwrite, trust_remote_code)
    manifest, machine = run.read(), detect()
    strategy = manifest.recipe.distributed
    if not isinstance(strategy, Processes):
        raise UsageError(
            Problem(str(path), "this run trains in one process", f"continue it with `lorans train {path} --resume`")
        )
    if manifest.is_complete:
        raise UsageError(Problem(str(path), "this run is finished", f"use it with `lorans infer {path}`"))
    here, node = count_here(strategy, machine), this_node(strategy)
    values = [f"{name}={value}" for name, value in settings(here, machine.cores, node).items()]
    hand_over(" ".join([*values, shlex.join(argv(run.path, here, restarts=strategy.restarts, node=node))]))


def _prepared(recipe: Path, overrides: list[str], overwrite: bool, trust_remote_code: bool) -> RunDir:
    """Prepare a new run of a recipe, up to the start of its processes."""
    from lora_ns.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    trust_recipe(trust_remote_code, loaded)

    from lora_ns.machine.libraries import Noise
    from lora_ns.services.train import prepare_run

    with Progress(2) as progress, Noise() as noise:
        run = prepare_run(loaded, progress, noise, overwrite)
    run.update(awaits_launcher=True)
    return run
