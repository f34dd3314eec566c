"""`train --resume`: an interrupted run goes on from its directory."""

from __future__ import annotations

import os
from pathlib import Path

from lora_ns.answers.opened import reopen_base
from lora_ns.errors import Problem, UsageError
from lora_ns.launch.ranks import forget_strays
from lora_ns.launch.torchrun import check_not_launched
from lora_ns.machine import libraries
from lora_ns.machine.hardware import Machine, detect
from lora_ns.objectives import OBJECTIVE_TABLES
from lora_ns.parallel.nodes import check_meeting, resume_command
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.processes import count_processes
from lora_ns.plan.settle import settle_on_base
from lora_ns.plan.settled import Settled
from lora_ns.recipe.distributed import AutoStrategy, Processes, Strategy, is_launched
from lora_ns.recipe.load import LoadedRecipe, locating
from lora_ns.recipe.objective_tables import as_tables
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import put_aside
from lora_ns.run.manifest import Manifest, differences
from lora_ns.run.observer import Observer
from lora_ns.services.execute import begin_for_ranks, execute_here, execute_ranks
from lora_ns.training.fit import TrainResult
from lora_ns.training.prepared import remember_base, reopen_prepared, search_checkpoints, with_settled_rank
from lora_ns.training.regroup import Count, asked_count, regrouped, with_count

MAY_CHANGE_ON_RESUME = (
    "distributed.accelerate_config",  # what it says is in the other keys
    "distributed.max_restarts",
    "distributed.rdzv_endpoint",
    "distributed.timeout",
    "training.logging_steps",
    "training.save_steps",
    "training.save_total_limit",
    "training.output_dir",
    "tracking.",
    "generation.",
)
"""Keys that do not touch what is learned."""


def resume(
    run: RunDir,
    observer: Observer,
    noise: libraries.Noise,
    loaded: LoadedRecipe | None = None,
    count: Count | None = None,
    moved: Path | None = None,
    from_start: bool = False,
    meeting: str | None = None,
) -> TrainResult:
    """Go on with a run from its last complete checkpoint, or from its first step, from the run directory alone.

    Args:
        run: the run; where it lies does not matter.
        observer: who is told.
        noise: goes on in the run's log.
        loaded: the recipe, if one was named; it has to say what the run was started with.
        count: processes to go on with, if not as many as before; else the recipe's.
        moved: path to the base, if it has moved.
        from_start: whether to start again from the first step where every checkpoint is damaged.
        meeting: where a run of several machines meets the others, if no recipe is named.

    Raises:
        UsageError: if the run is finished, its recipe was changed, a file of it is damaged, so many processes would
            train something else, or it meets other machines somewhere else.
    """
    check_not_launched(os.environ)
    run.mend(observer.warn)
    asked = run.read().recipe.distributed
    if loaded is None:
        check_meeting(run.path, asked, meeting)
    with StopSignal().listening(lambda: f"{resume_command(run.path, asked)} goes on") as stop, run.held():
        manifest = remember_base(run, run.read(), moved)  # which who held it until now may have changed
        return _go_on(run, manifest, observer, noise, loaded, count, stop, from_start)


def _go_on(
    run: RunDir,
    manifest: Manifest,
    observer: Observer,
    noise: libraries.Noise,
    loaded: LoadedRecipe | None,
    count: Count | None,
    stop: StopSignal,
    from_start: bool,
) -> TrainResult:
    """As `resume`, in a run that nobody else trains."""
    machine, base = detect(), reopen_base(manifest)
    if loaded is not None:
        count = asked_count(manifest.recipe.distributed, loaded.recipe.distributed)
        with locating(loaded):
            manifest = _as_asked(manifest, settle_on_base(loaded, base.facts), count)
    _check_unfinished(run, manifest)
    before = processes = manifest.plan.world_size.value
    asked: Strategy = manifest.recipe.distributed
    if count is not None:
        asked = with_count(asked, count)
        processes = count_processes(asked, machine)
    surroundings = forget_strays(observer, processes)
    libraries.prepare(machine, processes)
    if processes != before:
        manifest = regrouped(run, manifest, base, machine, asked)
        observer.warn(f"begun with {before} process{'es' * (before > 1)}, and goes on with {processes}")
    prepared = reopen_prepared(run, manifest, base)
    noise.attach(run.log)
    found = search_checkpoints(run, manifest, observer, from_start)
    launched = is_launched(manifest.recipe.distributed, processes)
    if launched or processes != before:
        _check_devices(run, manifest, machine)
    put_aside(found.passed)
    manifest = run.amend(manifest)
    if launched:
        begin_for_ranks(run, manifest, machine, observer)
        return execute_ranks(run, surroundings, machine, observer, stop)
    return execute_here(run, prepared, observer, found.last, stop)


def reopen_run(
    run: RunDir,
    observer: Observer,
    loaded: LoadedRecipe | None = None,
    moved: Path | None = None,
    from_start: bool = False,
) -> RunDir:
    """A run that goes on with as many processes as before, started by a launcher of the user's own.

    Arguments as of `resume`.

    Raises:
        UsageError: if the run is finished, or its recipe, if one is named, was changed.
    """
    manifest = remember_base(run, run.read(), moved)
    if loaded is not None:
        with locating(loaded):
            manifest = _as_asked(manifest, settle_on_base(loaded, reopen_base(manifest).facts), None)
    _check_unfinished(run, manifest)
    put_aside(search_checkpoints(run, manifest, observer, from_start).passed)
    run.update(recipe=manifest.recipe)  # nobody holds it yet
    return run


def _check_unfinished(run: RunDir, manifest: Manifest) -> None:
    if manifest.status == "finished":
        raise UsageError(Problem(str(run.path), "this run is finished", f"`lorans infer {run.path}` uses it"))


def _as_asked(manifest: Manifest, settled: Settled, count: Count | None) -> Manifest:
    """The manifest with what may change of a recipe that is to be resumed. Raises `UsageError`."""
    begun, wanted = manifest.recipe.distributed, settled.recipe.distributed
    if isinstance(wanted, AutoStrategy):  # which was settled when the run was started
        wanted = begun
    elif count is not None:  # which is looked at by itself, see `regrouped`
        kept = {"num_processes": begun.num_processes} if isinstance(begun, Processes) else {}
        wanted = wanted.model_copy(update=kept) if kept else begun
    recipe = with_settled_rank(manifest, settled)
    _check_same(manifest, recipe.model_copy(update={"distributed": wanted}))
    return manifest.model_copy(update={"recipe": manifest.recipe.model_copy(update={"distributed": wanted})})


def _check_devices(run: RunDir, manifest: Manifest, machine: Machine) -> None:
    """There is a device for each process of a run that goes on. Raises `UsageError`."""
    count, device = manifest.plan.world_size.value, manifest.plan.device.value
    if machine.accelerator != device or (device == "cuda" and len(machine.gpus) < count):
        what = f"has {count} processes on {device}, and this machine has {len(machine.gpus)} GPUs"
        remedy = "go on where it was started, or with as many by `--num-processes`"
        raise UsageError(Problem(str(run.path), what, remedy))


def _check_same(manifest: Manifest, recipe: Recipe) -> None:
    """A resumed run is the run that was started: whatever would train something else is refused."""
    changed = differences(as_tables(manifest.recipe), as_tables(recipe))
    problems = [
        Problem(
            "",
            f"the run was started with {before!r}, and this says {after!r}",
            "put it back, or start a new run",
            key=key,
        )
        for key, (before, after) in changed.items()
        if not key.startswith(MAY_CHANGE_ON_RESUME) and key not in OBJECTIVE_TABLES
    ]
    if problems:
        raise UsageError(problems)
