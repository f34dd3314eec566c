"""Execution of a prepared run, in this process or in several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from lora_ns.launch.answering import initialise_in_subprocess
from lora_ns.launch.ranks import run_ranks
from lora_ns.machine.hardware import Machine
from lora_ns.parallel.nodes import this_node
from lora_ns.parallel.stop import StopSignal
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.services.after_training import JudgedTraining, judged
from lora_ns.trackers.tracking import Trackers, tracking
from lora_ns.training import starts
from lora_ns.training.fit import TrainResult, recording, train_and_seal
from lora_ns.training.prepared import PreparedRun


@contextlib.contextmanager
def telling_end(run: RunDir, observer: Observer) -> Iterator[None]:
    """Tell an observer when a run has ended, however it ends."""
    try:
        yield
    finally:
        observer.ended(run)


def initialise_for_ranks(run: RunDir, manifest: Manifest, machine: Machine, observer: Observer) -> None:
    """Compute an initialisation that needs rows or weights, once for all processes. Raises `LoransError`."""
    if not manifest.recipe.peft.starts_later or starts.is_kept(run.start):
        return
    observer.stage("initialising the adapter")
    recording(run, lambda _: initialise_in_subprocess(run, manifest.plan.device.value, machine))
    run.update(status=manifest.status)


def reported_to(recipe: Recipe) -> tuple[str, ...]:
    """The trackers that this machine reports a run to: the first of several machines reports."""
    node = this_node(recipe.distributed)
    return recipe.tracking.report_to if node is None or node.is_host else ()


def execute_here(
    run: RunDir,
    prepared: PreparedRun,
    observer: Observer,
    checkpoint: tuple[Path, int] | None,
    stop: StopSignal,
    trackers: Trackers | None = None,
) -> JudgedTraining:
    """Train, evaluate and save in this process; `trackers` is their process, if the recipe names some."""
    with tracking(run, trackers.names if trackers else (), observer.warn, trackers), telling_end(run, observer):
        result = recording(run, lambda manifest: train_and_seal(run, manifest, prepared, observer, checkpoint, stop))
        assert result is not None, "a single process is the first rank"
        return judged(result)


def execute_ranks(
    run: RunDir,
    surroundings: Mapping[str, str],
    machine: Machine,
    observer: Observer,
    stop: StopSignal,
    trackers: Trackers | None = None,
) -> JudgedTraining:
    """Train in several processes, which find everything they need in the run directory; arguments as above."""
    with tracking(run, trackers.names if trackers else (), observer.warn, trackers), telling_end(run, observer):
        result = recording(run, lambda manifest: run_ranks(run, manifest, surroundings, machine, observer, stop))
        manifest = run.read()  # as the first rank has written it
        return judged(TrainResult(**{**result, "seal": manifest.seal, "best": manifest.best}))
