"""`lorans train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import (
    AsJson,
    BasePath,
    Gpus,
    Overrides,
    Overwrite,
    TrustRemoteCode,
    asked_processes,
    check_one_of,
)
from lora_ns.cli.results import show_training
from lora_ns.cli.show import Progress, note
from lora_ns.cli.trust import trust_recipe, trust_run
from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_file, is_folder

if TYPE_CHECKING:
    from lora_ns.launch.torchrun import Launcher
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.run.directory import RunDir
    from lora_ns.services.after_training import JudgedTraining


RecipeOrRun = Annotated[
    Path,
    typer.Argument(
        help="Path to the recipe; with --resume, a run directory works too.",
        show_default=False,
        autocompletion=complete.recipes_and_runs,
    ),
]


Resume = Annotated[bool, typer.Option("--resume", help="Continue the run from its last complete checkpoint.")]


NoCache = Annotated[bool, typer.Option("--no-cache", help="Tokenise again, without reading or writing the cache.")]


TrainingProcesses = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        metavar="N",
        min=1,
        help="Number of processes to train with (DDP). A run can be resumed with another number.",
        show_default=False,
    ),
]


Nodes = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        help="Number of machines to train on. Give it on each of them.",
        show_default=False,
    ),
]


RdzvEndpoint = Annotated[
    str | None,
    typer.Option(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="Address and port of one of the machines, where they connect.",
        show_default=False,
    ),
]


FromStart = Annotated[
    bool, typer.Option("--from-start", help="With --resume: start over if every checkpoint of the run is damaged.")
]


ForceTraining = Annotated[
    bool, typer.Option("--force", help="Train even if the pre-flight finds that the rewards teach nothing.")
]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan without training.")]


def train(
    recipe: RecipeOrRun,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    resume: Resume = False,
    overwrite: Overwrite = False,
    no_cache: NoCache = False,
    num_processes: TrainingProcesses = None,
    gpus: Gpus = None,
    nodes: Nodes = None,
    rdzv_endpoint: RdzvEndpoint = None,
    base: BasePath = None,
    from_start: FromStart = False,
    force: ForceTraining = False,
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the adapter that a recipe describes, or continue a run.

    The run directory then has the adapter, the metrics and the log. The saved adapter is reloaded and checked
    against the trained model.
    """
    _check_options(resume, overwrite, base, from_start, force)
    from lora_ns.launch.torchrun import Launcher

    is_run, launcher = resume and is_folder(recipe), Launcher.of(os.environ)
    count = asked_processes(num_processes, gpus, "trains")
    _check_left_to(launcher, count, nodes, rdzv_endpoint)
    if is_run and (overrides or nodes):
        what = "a run continues with its own settings, except `--num-processes`"
        raise UsageError(Problem("--set" if overrides else "", what, "remove it, or start a new run"))
    if launcher and not is_run:
        count, nodes, rdzv_endpoint = launcher.processes, launcher.nodes, launcher.endpoint
    overrides = [*overrides, *_processes(recipe, overrides, count, nodes, None if is_run else rdzv_endpoint)]
    if dry_run:
        from lora_ns.cli.plan import plan

        plan(recipe, overrides, as_json)
        return
    loaded = None if is_run else _loaded(recipe, overrides)
    run = _own_run(recipe, loaded, resume)

    from lora_ns.machine.libraries import Noise
    from lora_ns.services import resume as resuming
    from lora_ns.services import train as service
    from lora_ns.services import train_under_launcher as launched

    _trust(trust_remote_code, loaded, run, resume, base)
    with Progress(2) as progress, Noise() as noise:
        if launcher:
            request = launched.TrainRequest(loaded, run, resume, overwrite, not no_cache, base, from_start, force)
            result: JudgedTraining | None = launched.train(launcher, request, progress, noise)
        elif resume:
            result = resuming.resume(run, progress, noise, loaded, count, base, from_start, rdzv_endpoint)
        else:
            assert loaded is not None, "without --resume there is a recipe"
            result = service.train(loaded, progress, noise, overwrite, not no_cache, force)
    if result is not None:  # only the first process has one
        from lora_ns.run.directory import RunDir

        show_training(result, as_json, RunDir(Path(result.run)).read().recipe.objective.answers != "score")


def _check_options(resume: bool, overwrite: bool, base: Path | None, from_start: bool, force: bool) -> None:
    """Check that the options go together. Raises `UsageError`."""
    check_one_of(resume, overwrite)
    if resume and force:
        raise UsageError(Problem("--force", "a resumed run has no pre-flight", "remove it"))
    if not resume and (base or from_start):
        what = "only works with `--resume`"
        raise UsageError(Problem("--base" if base else "--from-start", what, "add `--resume`, or remove it"))


def _loaded(recipe: Path, overrides: list[str]) -> LoadedRecipe:
    """Load the recipe. Raises `UsageError`."""
    from lora_ns.recipe.load import load_recipe

    if is_folder(recipe):
        raise UsageError(Problem(str(recipe), "is a folder", "name a recipe, or add `--resume` to continue a run"))
    return load_recipe(recipe, overrides)


def _trust(is_given: bool, loaded: LoadedRecipe | None, run: RunDir, resume: bool, base: Path | None) -> None:
    """Allow the code of the base or run, if the user consents. Raises `LoransError`."""
    if loaded is None or resume:
        trust_run(is_given, run, base)
    else:
        trust_recipe(is_given, loaded)


def _check_left_to(launcher: Launcher | None, *options: object) -> None:
    """Refuse options that contradict the launcher of this process, if it has one. Raises `UsageError`."""
    if launcher and any(value is not None for value in options):
        what = "torchrun or accelerate started this command and sets the number of processes and machines"
        raise UsageError(Problem("", what, "remove the launcher, or the options"))


def _own_run(recipe: Path, loaded: LoadedRecipe | None, exists: bool) -> RunDir:
    """Return the run to start or continue. Each of several machines has its own folder. Raises `UsageError`."""
    from lora_ns.parallel.nodes import own_folder
    from lora_ns.run.directory import RunDir

    path = RunDir.of(loaded.recipe).path if loaded else recipe.absolute()
    if exists:
        RunDir(path).mend(note)
    strategy = loaded.recipe.distributed if loaded else RunDir.open(path).read().recipe.distributed
    own = own_folder(path, strategy)
    found = own if loaded or own.exists() else path
    return RunDir.open(found) if exists else RunDir(found)


def _processes(
    recipe: Path,
    overrides: list[str],
    count: int | Literal["auto"] | None,
    nodes: int | None,
    rdzv_endpoint: str | None,
) -> list[str]:
    """Return the overrides that the options stand for."""
    if count is None and nodes is None and rdzv_endpoint is None:
        return []
    written = {
        "num_processes": '"auto"' if count == "auto" else count,
        "num_nodes": nodes,
        "rdzv_endpoint": rdzv_endpoint and f'"{rdzv_endpoint}"',
    }
    from lora_ns.recipe.load import written as written_in

    strategy = written_in(recipe, overrides, "distributed", "strategy") if is_file(recipe) else None
    return [
        *([] if strategy not in (None, "none") else ['distributed.strategy="ddp"']),
        *(f"distributed.{key}={value}" for key, value in written.items() if value),
    ]
