"""One-line messages for failures of training: too little memory, and broken rows of a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lora_ns.errors import DataError, Problem, RunError
from lora_ns.methods.base import Start
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import last_complete_checkpoint
from lora_ns.run.manifest import Manifest


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


def no_room_to_train(run: RunDir, manifest: Manifest) -> tuple[Callable[[], str], str]:
    """Message and remedy for a training step that does not fit into memory."""

    def message() -> str:
        plan = manifest.plan
        size, length = plan.per_device_train_batch_size.value, plan.max_seq_length.value
        found = last_complete_checkpoint(run.checkpoints, manifest.run_id)
        kept = f"step {found[1]} is saved" if found else "there is no checkpoint yet"
        return f"out of memory with {size} rows of up to {length} tokens per batch; {kept}"

    return message, "halve `per_device_train_batch_size`, set `gradient_checkpointing = true`, or quantise the base"


def no_room_to_start(start: Start) -> tuple[Callable[[], str], str]:
    """Message and remedy for an initialisation that does not fit into memory."""
    fewer = "halve `per_device_train_batch_size`, " if start.name in {"eva", "lora_ga"} else ""
    message = f'out of memory while computing `init_lora_weights = "{start.name}"`, before the first step'
    return lambda: message, f'{fewer}name fewer `target_modules`, or write "default"'
