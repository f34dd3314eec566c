"""One rank of a run with several processes: join the others, agree on the run, and train."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_ns.answers.opened import reopen_base
from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.files.marks import mark_folder
from lora_ns.machine import libraries
from lora_ns.machine.hardware import detect
from lora_ns.parallel.group import Rank, agreed, check_agreed, hand_out, in_whole_batches, join, meet
from lora_ns.parallel.nodes import resume_command
from lora_ns.parallel.stop import StopSignal
from lora_ns.recipe.distributed import Processes
from lora_ns.run.directory import RunDir
from lora_ns.run.followed import FollowedRun
from lora_ns.run.last_checkpoint import search
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.trackers.tracking import tracking
from lora_ns.training import starts
from lora_ns.training.fit import TrainResult, recording, train_and_seal
from lora_ns.training.prepared import reopen_prepared, search_checkpoints


def train_rank(run: RunDir, observer: Observer, noise: libraries.Noise, is_launched: bool) -> TrainResult | None:
    """Train or resume a prepared run as one of its processes.

    Args:
        run: the run.
        observer: receives progress and warnings, from the first rank of the machine.
        noise: library output, written to the rank's log.
        is_launched: whether `lorans train` started this process and stops it with a file; otherwise signals stop it.

    Returns:
        The result on the first rank of each machine, None on the others.
    """
    rank, manifest = Rank.of(), run.read()
    if rank.world != manifest.plan.world_size.value:
        what = f"planned for {manifest.plan.world_size.value} processes, but the launcher started {rank.world}"
        raise UsageError(Problem(str(run.path), what, f"`lorans launch-command {run.path}` prints the command"))
    if not rank.is_first:
        run = FollowedRun(run.path, rank.number)
    with contextlib.ExitStack() as locks:
        if is_launched:  # by a process that holds the run's lock
            locks.enter_context(run.joined())
        return _train_rank(run, manifest, rank, observer, noise, None if is_launched else locks)


def _train_rank(
    run: RunDir,
    manifest: Manifest,
    rank: Rank,
    observer: Observer,
    noise: libraries.Noise,
    locks: contextlib.ExitStack | None,
) -> TrainResult | None:
    """Train as in `train_rank`; `locks` receives the run's locks, and is None if `lorans train` holds them."""
    machine = detect()
    libraries.prepare(machine, rank.local_world)
    noise.attach(run.log)
    strategy = manifest.recipe.distributed
    assert isinstance(strategy, Processes), "a run of several processes has a strategy"
    join(rank, manifest.plan.device.value, strategy.timeout)
    if locks is not None:
        _hold_together(run, rank, locks)
    base = reopen_base(manifest, advice=f"`lorans train {run.path} --resume --base FOLDER`")
    check_agreed(_essentials(manifest))
    _agree_on_start(run, manifest, rank)
    found = _agree_on_checkpoint(run, manifest, rank)
    prepared = replace(reopen_prepared(run, manifest, base), rank=rank)
    evaluation = prepared.data[1]
    if evaluation is not None:
        size = manifest.plan.per_device_eval_batch_size.value * rank.world
        prepared = replace(prepared, data=(prepared.data[0], in_whole_batches(evaluation, size)))
    stop = StopSignal(file=run.stop_file if locks is None else None)
    with stop.listening(lambda: f"{resume_command(run.path, strategy)} continues it"):
        if locks is None:
            with run.telling_lost_disk():
                return train_and_seal(run, manifest, prepared, observer, found, stop)
        with tracking(run, manifest.recipe.tracking.report_to if rank.number == 0 else (), observer.warn):
            return recording(run, lambda recorded: train_and_seal(run, recorded, prepared, observer, found, stop))


def _agree_on_checkpoint(run: RunDir, manifest: Manifest, rank: Rank) -> tuple[Path, int] | None:
    """The last checkpoint that all machines have; the first rank of each machine searches.

    Raises:
        UsageError: if every checkpoint is damaged.
    """
    found = search(run.checkpoints, manifest.run_id, every=True).whole if rank.is_first else None
    if rank.is_first and not found:
        search_checkpoints(run, manifest, SilentObserver(), from_start=False)
    step = agreed(found)
    return None if step is None else (run.checkpoints / f"checkpoint-{step}", step)


def _hold_together(run: RunDir, rank: Rank, locks: contextlib.ExitStack) -> None:
    """Lock the run against other commands: the first rank of each machine takes the lock before any rank joins."""
    if rank.is_first:
        locks.enter_context(run.held())
    meet()
    locks.enter_context(run.joined())


def _agree_on_start(run: RunDir, manifest: Manifest, rank: Rank) -> None:
    """Distribute rank 0's initialisation of the adapter, since another machine may have rounded it differently.

    Raises:
        RunError: if the initialisation was not computed.
    """
    if not manifest.recipe.peft.starts_later:
        return
    if not starts.is_kept(run.start):
        remedy = f"`lorans train {run.path} --resume` computes it"
        raise RunError(Problem(str(run.start), "the adapter's initialisation is missing", remedy))
    if manifest.recipe.distributed.nodes > 1:
        for name in starts.FILES:
            hand_out(run.start / name, rank.is_first)
        if rank.is_first:
            mark_folder(run.start)
        meet()


def _essentials(manifest: Manifest) -> dict[str, Any]:
    """The values that must be equal in all processes of a run, on every machine."""
    recipe = manifest.recipe.model_dump(mode="json")
    recipe["training"].pop("output_dir")
    recipe["distributed"].pop("accelerate_config")  # each machine has its own file; its settings are in the other keys
    data, plan = manifest.data, manifest.plan
    numbers = {name: getattr(plan, name).value for name in ("device", "dtype", "max_steps", "global_batch_size")}
    return {
        "recipe": hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12],
        "rows": [source.sha256[:12] for source in (data.train, data.eval) if source],
        "base": manifest.base.fingerprint[:12],
        "earlier adapters": [one.sha256[:12] for one in (*manifest.base_adapters, manifest.init_adapter) if one],
        "tokenizer": manifest.base.tokenizer_fingerprint[:12],
        "numbers of the plan": numbers,
        "packages": manifest.packages,
        "lorans": manifest.lorans,
    }
