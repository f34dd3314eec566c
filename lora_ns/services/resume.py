"""`train --resume`: continues an interrupted run from its run directory."""

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
from lora_ns.services.after_training import JudgedTraining
from lora_ns.services.execute import execute_here, execute_ranks, initialise_for_ranks, reported_to
from lora_ns.trackers.tracking import Trackers, loading
from lora_ns.training.prepared import remember_base, reopen_prepared, search_checkpoints, with_settled_rank
from lora_ns.training.regroup import Count, asked_count, regrouped, with_count

MAY_CHANGE_ON_RESUME = (
    "distributed.accelerate_config",  # its settings are in the other keys
    "distributed.max_restarts",
    "distributed.rdzv_endpoint",
    "distributed.timeout",
    "training.max_time",
    "training.logging_steps",
    "training.save_steps",
    "training.save_total_limit",
    "training.output_dir",
    "tracking.",
    "generation.",
)
"""Keys that do not affect the trained adapter."""


def resume(
    run: RunDir,
    observer: Observer,
    noise: libraries.Noise,
    loaded: LoadedRecipe | None = None,
    count: Count | None = None,
    moved: Path | None = None,
    from_start: bool = False,
    meeting: str | None = None,
) -> JudgedTraining:
    """Resume a run from its last complete checkpoint, or from the first step, using only its run directory.

    Args:
        run: the run, which may have been moved.
        observer: receives progress and warnings.
        noise: library output, written to the run's log.
        loaded: the recipe, if one was given; it must match the recipe that the run was started with.
        count: number of processes, if it changes; with a recipe, its number is taken.
        moved: path to the base model, if it has moved.
        from_start: whether to restart from the first step if every checkpoint is damaged.
        meeting: rendezvous address of a run on several machines, if no recipe is given.

    Raises:
        UsageError: if the run is finished, its recipe has changed, one of its files is damaged, the number of processes
            would train a different adapter, or the rendezvous address differs from the run's.
    """
    check_not_launched(os.environ)
    run.mend(observer.warn)
    strategy = run.read().recipe.distributed
    if loaded is None:
        check_meeting(run.path, strategy, meeting)
    with StopSignal().listening(lambda: f"{resume_command(run.path, strategy)} continues it") as stop, run.held():
        manifest = remember_base(run, run.read(), moved)  # the previous holder of the lock may have changed it
        with loading(reported_to((loaded or manifest).recipe)) as trackers:
            return _resume(run, manifest, observer, noise, loaded, count, stop, from_start, trackers)


def _resume(
    run: RunDir,
    manifest: Manifest,
    observer: Observer,
    noise: libraries.Noise,
    loaded: LoadedRecipe | None,
    count: Count | None,
    stop: StopSignal,
    from_start: bool,
    trackers: Trackers | None,
) -> JudgedTraining:
    """Resume a run whose lock this process holds; arguments as in `resume`."""
    machine, base = detect(), reopen_base(manifest)
    if loaded is not None:
        count = asked_count(manifest.recipe.distributed, loaded.recipe.distributed)
        with locating(loaded):
            manifest = _as_asked(manifest, settle_on_base(loaded, base.facts), count)
    _check_unfinished(run, manifest)
    before = processes = manifest.plan.world_size.value
    strategy: Strategy = manifest.recipe.distributed
    if count is not None:
        strategy = with_count(strategy, count)
        processes = count_processes(strategy, machine)
    surroundings = forget_strays(observer, processes)
    libraries.prepare(machine, processes)
    if processes != before:
        manifest = regrouped(run, manifest, base, machine, strategy)
        observer.warn(f"started with {before} process{'es' * (before > 1)}, resuming with {processes}")
    prepared = reopen_prepared(run, manifest, base)
    noise.attach(run.log)
    found = search_checkpoints(run, manifest, observer, from_start)
    launched = is_launched(manifest.recipe.distributed, processes)
    if launched or processes != before:
        _check_devices(run, manifest, machine)
    put_aside(found.passed)
    manifest = run.amend(manifest)
    if launched:
        initialise_for_ranks(run, manifest, machine, observer)
        return execute_ranks(run, surroundings, machine, observer, stop, trackers)
    return execute_here(run, prepared, observer, found.last, stop, trackers)


def reopen_run(
    run: RunDir,
    observer: Observer,
    loaded: LoadedRecipe | None = None,
    moved: Path | None = None,
    from_start: bool = False,
) -> RunDir:
    """Prepare a run to be resumed by processes that the user's own launcher started; arguments as in `resume`.

    Raises:
        UsageError: if the run is finished, or a recipe is given that does not match it.
    """
    manifest = remember_base(run, run.read(), moved)
    if loaded is not None:
        with locating(loaded):
            manifest = _as_asked(manifest, settle_on_base(loaded, reopen_base(manifest).facts), None)
    _check_unfinished(run, manifest)
    put_aside(search_checkpoints(run, manifest, observer, from_start).passed)
    run.update(recipe=manifest.recipe)  # no process holds the lock yet
    return run


def _check_unfinished(run: RunDir, manifest: Manifest) -> None:
    """Check that there are steps left: a run that its time limit ended goes on. Raises `UsageError`."""
    if manifest.is_complete:
        why = f" ({manifest.ended})" if manifest.ended else ""
        raise UsageError(Problem(str(run.path), f"this run is finished{why}", f"`lorans infer {run.path}` uses it"))


def _as_asked(manifest: Manifest, settled: Settled, count: Count | None) -> Manifest:
    """The manifest with those changes of the recipe that a resumed run allows. Raises `UsageError`."""
    begun, wanted = manifest.recipe.distributed, settled.recipe.distributed
    if isinstance(wanted, AutoStrategy):  # resolved when the run was started
        wanted = begun
    elif count is not None:  # checked separately, see `regrouped`
        kept = {"num_processes": begun.num_processes} if isinstance(begun, Processes) else {}
        wanted = wanted.model_copy(update=kept) if kept else begun
    recipe = with_settled_rank(manifest, settled)
    _check_same(manifest, recipe.model_copy(update={"distributed": wanted}))
    training = manifest.recipe.training.model_copy(update={"max_time": recipe.training.max_time})
    changed = {"distributed": wanted, "tracking": recipe.tracking, "training": training}
    return manifest.model_copy(update={"recipe": manifest.recipe.model_copy(update=changed)})


def _check_devices(run: RunDir, manifest: Manifest, machine: Machine) -> None:
    """Check that this machine has a device for each process of the run. Raises `UsageError`."""
    count, device = manifest.plan.world_size.value, manifest.plan.device.value
    if machine.accelerator != device or (device == "cuda" and len(machine.gpus) < count):
        what = f"has {count} processes on {device}, but this machine has {len(machine.gpus)} GPUs"
        remedy = "resume it on its own machine, or set `--num-processes`"
        raise UsageError(Problem(str(run.path), what, remedy))


def _check_same(manifest: Manifest, recipe: Recipe) -> None:
    """Refuse changes of the recipe that would train a different adapter. Raises `UsageError`."""
    changed = differences(as_tables(manifest.recipe), as_tables(recipe))
    problems = [
        Problem(
            "",
            f"the run was started with {before!r}, the recipe now says {after!r}",
            "restore the old value, or start a new run",
            key=key,
        )
        for key, (before, after) in changed.items()
        if not key.startswith(MAY_CHANGE_ON_RESUME) and key not in OBJECTIVE_TABLES
    ]
    if problems:
        raise UsageError(problems)
