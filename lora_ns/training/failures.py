"""One-line messages for failures of training: too little memory, and broken rows of a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lora_ns.errors import DataError, Problem, RunError
from lora_ns.methods.base import Start
from lora_ns.plan.cuts import memory_cuts
from lora_ns.plan.plan import Plan
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import last_complete_checkpoint
from lora_ns.run.manifest import Manifest
from lora_ns.training.surviving import Room


@contextlib.contextmanager
def telling_broken_rows(run: RunDir, manifest: Manifest) -> Iterator[None]:
    """Turn a broken row of a stream into an error that names the last checkpoint. Raises `RunError`."""
    try:
        yield
    except DataError as error:
        found = last_complete_checkpoint(run.checkpoints, manifest.run_id)
        kept = f"the last checkpoint is {found[0]}" if found else "there is no checkpoint yet"
        remedy = "fix the rows, or skip unreadable ones with `dataset.max_bad_rows`, and train again"
        found_there = [problem.located(lambda _: str(run.recipe)) for problem in error.problems]
        raise RunError([*found_there, Problem(str(run.path), f"the stream failed; {kept}", remedy)]) from error


def no_room_to_load(manifest: Manifest) -> tuple[Callable[[], str], str]:
    """Message and remedy for a base that does not fit into memory."""
    billions, device = manifest.base.parameters / 1e9, manifest.plan.device.value
    message = (
        f"out of memory while loading a base of {billions:,.2f} billion parameters onto {device}, before the first step"
    )
    remedy = 'free memory, quantise the base with `[quantization] method = "bnb-4bit"`, or shard it'
    return lambda: message, f'{remedy} with `[distributed] strategy = "fsdp"`'


def no_room_to_train(
    run: RunDir, manifest: Manifest, room: Room | None = None
) -> tuple[Callable[[], str], Callable[[], str]]:
    """Message and remedy for a training step that does not fit into memory.

    Args:
        run: the run.
        manifest: its manifest.
        room: what its steps have found out about memory; None if they are not done again.
    """
    plan, room = manifest.plan, room or Room()

    def message() -> str:
        size, length = plan.per_device_train_batch_size.value, plan.max_seq_length.value
        most, unit = room.found.train, room.found.unit
        at_once = f"{size} rows of up to {length} tokens per batch"
        if most:
            at_once = f"{most:,} {unit if most > 1 else unit[:-1]} at once"
        found = last_complete_checkpoint(run.checkpoints, manifest.run_id)
        kept = f"step {found[1]} is saved" if found else "there is no checkpoint yet"
        whole = f"; the batch cannot be divided: {room.not_in_training}" if room.not_in_training else ""
        return f"out of memory with {at_once}; {kept}{whole}{_planned_terms(plan)}"

    def remedy() -> str:
        rows = plan.per_device_train_batch_size.value if room.found.train is None else 1
        *cuts, last = memory_cuts(manifest.recipe, rows, plan.gradient_checkpointing.value)
        return ", ".join(cuts) + (", or " if cuts else "") + last

    return message, remedy


def _planned_terms(plan: Plan) -> str:
    """The terms of the plan's estimate, the largest first."""
    terms = sorted(plan.memory.items(), key=lambda term: -term[1])
    said = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in terms if size >= _WORTH_SAYING)
    return f"; the plan expected {sum(plan.memory.values()) / 1e9:.2f} GB: {said}" if said else ""


_WORTH_SAYING = 5_000_000
"""Bytes of a term that is named."""


def no_room_to_start(start: Start) -> tuple[Callable[[], str], str]:
    """Message and remedy for an initialisation that does not fit into memory."""
    fewer = "halve `per_device_train_batch_size`, " if start.name in {"eva", "lora_ga"} else ""
    message = f'out of memory while computing `init_lora_weights = "{start.name}"`, before the first step'
    return lambda: message, f'{fewer}name fewer `target_modules`, or write "default"'
