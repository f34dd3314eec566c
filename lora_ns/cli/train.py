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
from lora_ns.cli.show import Progress, beside_baseline, note, number, print_json, print_pairs
from lora_ns.cli.trust import trust_recipe, trust_run
from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_file, is_folder

if TYPE_CHECKING:
    from lora_ns.launch.torchrun import Launcher
    from lora_ns.recipe.load import LoadedRecipe
    from lora_ns.run.directory import RunDir
    from lora_ns.run.manifest import SealRecord
    from lora_ns.training.fit import TrainResult


RecipeOrRun = Annotated[
    Path,
    typer.Argument(
        help="The recipe; with --resume also a run directory.",
        show_default=False,
        autocompletion=complete.recipes_and_runs,
    ),
]


Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last complete checkpoint of this run.")]


NoCache = Annotated[bool, typer.Option("--no-cache", help="Tokenise anew, and keep nothing for later runs.")]


TrainingProcesses = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        min=1,
        help="Processes that train together (DDP); a run may be resumed with others.",
        show_default=False,
    ),
]


Nodes = Annotated[
    int | None,
    typer.Option("--nodes", min=1, help="Machines that train together; give it on each.", show_default=False),
]


RdzvEndpoint = Annotated[
    str | None,
    typer.Option("--rdzv-endpoint", metavar="HOST:PORT", help="Where they meet: on one of them.", show_default=False),
]


FromStart = Annotated[
    bool, typer.Option("--from-start", help="With --resume: start again if every checkpoint of the run is damaged.")
]


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


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
    trust_remote_code: TrustRemoteCode = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train the adapter of a recipe."""
    _check_options(resume, overwrite, base, from_start)
    from lora_ns.launch.torchrun import Launcher

    is_run, launcher = resume and is_folder(recipe), Launcher.of(os.environ)
    count = asked_processes(num_processes, gpus, "trains")
    _check_left_to(launcher, count, nodes, rdzv_endpoint)
    if is_run and (overrides or nodes):
        what = "a run goes on as it was started, but for `--num-processes`"
        raise UsageError(Problem("--set" if overrides else "", what, "leave it away, or start a new run"))
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
            asked = launched.Asked(loaded, run, resume, overwrite, not no_cache, base, from_start)
            result: TrainResult | None = launched.train(launcher, asked, progress, noise)
        elif resume:
            result = resuming.resume(run, progress, noise, loaded, count, base, from_start, rdzv_endpoint)
        else:
            assert loaded is not None, "without --resume there is a recipe"
            result = service.train(loaded, progress, noise, overwrite, not no_cache)
    if result is not None:  # as it is in the first process
        _show(result, as_json)


def _check_options(resume: bool, overwrite: bool, base: Path | None, from_start: bool) -> None:
    """Options that mean something together. Raises `UsageError`."""
    check_one_of(resume, overwrite)
    if not resume and (base or from_start):
        what = "is for a run that goes on"
        raise UsageError(Problem("--base" if base else "--from-start", what, "add `--resume`, or leave it away"))


def _loaded(recipe: Path, overrides: list[str]) -> LoadedRecipe:
    """The recipe. Raises `UsageError`."""
    from lora_ns.recipe.load import load_recipe

    if is_folder(recipe):
        raise UsageError(Problem(str(recipe), "is a folder", "name a recipe, or continue a run by `--resume`"))
    return load_recipe(recipe, overrides)


def _trust(is_given: bool, loaded: LoadedRecipe | None, run: RunDir, resume: bool, base: Path | None) -> None:
    """Allow the code that is to be run, if the user says so. Raises `LoransError`."""
    if loaded is None or resume:
        trust_run(is_given, run, base)
    else:
        trust_recipe(is_given, loaded)


def _check_left_to(launcher: Launcher | None, *said: object) -> None:
    """Nothing is said of what the launcher of this process, if it has one, has decided. Raises `UsageError`."""
    if launcher and any(value is not None for value in said):
        what = "torchrun or accelerate started this, and decides on processes and machines"
        raise UsageError(Problem("", what, "leave the launcher away, or the options for them"))


def _show(result: TrainResult, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    print_pairs(
        [
            ("run", result.run),
            ("adapter", result.adapter),
            ("steps", number(result.steps)),
            ("trained parameters", number(result.trainable_parameters)),
            *_seal(result.seal),
            *_measurements(result.metrics),
        ]
    )


def _own_run(recipe: Path, loaded: LoadedRecipe | None, exists: bool) -> RunDir:
    """The run to make or to go on with, on this machine: of several, each has its own folder. Raises `UsageError`."""
    from lora_ns.parallel.nodes import own_folder
    from lora_ns.run.directory import RunDir

    path = RunDir.of(loaded.recipe).path if loaded else recipe.absolute()
    if exists:
        RunDir(path).mend(note)
    asked = loaded.recipe.distributed if loaded else RunDir.open(path).read().recipe.distributed
    own = own_folder(path, asked)
    found = own if loaded or own.exists() else path
    return RunDir.open(found) if exists else RunDir(found)


def _processes(
    recipe: Path,
    overrides: list[str],
    count: int | Literal["auto"] | None,
    nodes: int | None,
    rdzv_endpoint: str | None,
) -> list[str]:
    """The overrides that the options stand for."""
    if count is None and nodes is None and rdzv_endpoint is None:
        return []
    written = {
        "num_processes": '"auto"' if count == "auto" else count,
        "num_nodes": nodes,
        "rdzv_endpoint": rdzv_endpoint and f'"{rdzv_endpoint}"',
    }
    from lora_ns.recipe.load import written as written_in

    said = written_in(recipe, overrides, "distributed", "strategy") if is_file(recipe) else None
    return [
        *([] if said not in (None, "none") else ['distributed.strategy="ddp"']),
        *(f"distributed.{key}={value}" for key, value in written.items() if value),
    ]


def _seal(seal: SealRecord | None) -> list[tuple[str, str]]:
    """How what was saved answers, opened again on a fresh base."""
    if seal is None:
        return []
    base = "" if seal.adapter_effect is None else f"; the base alone is {seal.adapter_effect:.1e} away"
    same = "as the trained model does" if seal.largest_difference == 0 else f"{seal.largest_difference:.1e} apart"
    return [("saved adapter", f"answers {seal.rows} rows {same}{base}")]


def _measurements(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """What was measured, before and after in one line."""
    rows = []
    names = [name.removeprefix("before/") for name in metrics if not name.startswith("baseline/")]
    for name in dict.fromkeys(names):
        before, after = metrics.get(f"before/{name}"), metrics.get(name)
        if after is None:
            rows.append((name, f"{_measured(name, metrics[f'before/{name}'])} before training, not measured after it"))
        else:
            shown = _measured(name, after)
            shown = shown if before is None else f"{_measured(name, before)} -> {shown}"
            rows.append((name, beside_baseline(shown, metrics.get(f"baseline/{name}"))))
    return rows


def _measured(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    return f"{value:.1%}" if name.startswith("exact_match") else number(float(value))
