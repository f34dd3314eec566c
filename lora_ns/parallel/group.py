"""A training process in its group: its rank, and the agreement of all ranks."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lora_ns.errors import MissingError, Problem, RunError
from lora_ns.machine.own_memory import peak_resident_bytes
from lora_ns.parallel.sharding import put_together
from lora_ns.recipe.distributed import DeepSpeed, Fsdp, Processes, Strategy
from lora_ns.run.manifest import DistributedRecord
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer

T = TypeVar("T")


@dataclass(frozen=True)
class Rank:
    """Position of this process in the group of training processes."""

    number: int = 0
    local: int = 0
    world: int = 1
    local_world: int = 1

    @classmethod
    def of(cls, surroundings: Mapping[str, str] = os.environ) -> Rank:
        """Read the rank from torchrun's environment variables."""
        number, local, world = (int(surroundings[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        return cls(number, local, world, int(surroundings.get("LOCAL_WORLD_SIZE", world)))

    @property
    def is_first(self) -> bool:
        """True if this process writes files and reports. On several machines, each has its own run directory."""
        return self.local == 0


ALONE = Rank()


def join(rank: Rank, device: str, timeout: int) -> None:
    """Join the process group.

    Call it before the first `TrainingArguments`: accelerate uses an existing group. The one that it would create itself
    waits half an hour for a process on a CPU, regardless of the requested timeout.
    """
    import torch
    from torch import distributed

    if device == "cuda":
        torch.cuda.set_device(rank.local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(seconds=timeout))


_STRATEGY = "distributed.strategy"


def check_deepspeed(strategy: Strategy, device: str) -> None:
    """Check that DeepSpeed can be imported, and that a compiler for its extensions is available.

    Args:
        strategy: the strategy.
        device: the training device. On a CPU, or with CPU offload, DeepSpeed compiles an extension.

    Raises:
        MissingError: before any process is started.
    """
    if not isinstance(strategy, DeepSpeed):
        return
    compiler = os.environ.get("CXX", "c++")
    if (device == "cpu" or strategy.offload_optimizer != "none") and shutil.which(compiler) is None:
        what = f"DeepSpeed compiles an extension for the CPU, and there is no `{compiler}`"
        raise MissingError(Problem("", what, 'install a C++ compiler, or write `strategy = "ddp"`', place=_STRATEGY))
    try:
        import deepspeed  # noqa: F401
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        what = f"`deepspeed` is installed but cannot be imported: {reason}"
        remedy = '`pip install --force-reinstall --no-deps deepspeed`, or write `strategy = "ddp"`'
        raise MissingError(Problem("", what, remedy, place=_STRATEGY)) from error


def is_one_of_several() -> bool:
    """True if this process is one of a group."""
    from torch import distributed

    return distributed.is_initialized()


def leave(trainer: Trainer) -> None:
    """Gather the trained weights, check that all ranks have the same ones, and end the group.

    A model with sharded weights cannot be called after this.

    Raises:
        RunError: if the ranks have trained different weights.
    """
    from torch import distributed
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    put_together(trainer)
    sums: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(sums, _checksum(trainer.model))
    distributed.barrier()
    distributed.destroy_process_group()
    unset_hf_deepspeed_config()  # models loaded from now on are not sharded
    other = next((number for number, found in enumerate(sums) if found != sums[0]), None)
    if other is not None:
        what = f"rank {other} has trained different weights than rank 0"
        raise RunError(Problem("", what, "do not use this run, and report this as a bug"))


def _checksum(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in model.named_parameters():
        if value.requires_grad:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_agreed(facts: Mapping[str, Any]) -> None:
    """Check that all ranks are about to train the same thing.

    Args:
        facts: values that must be equal, by their names in the error.

    Raises:
        RunError: naming the first rank that differs, its machine, and its value.
    """
    from torch import distributed

    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, (socket.gethostname(), dict(facts)))
    host, first = found[0]
    for number, (other, theirs) in enumerate(found):
        different = [name for name in first if theirs.get(name) != first[name]]
        if different:
            name = different[0]
            what = f"rank {number} on {other} differs from rank 0 on {host} in {name}"
            raise RunError(
                Problem("", f"{what}: {theirs.get(name)} instead of {first[name]}", "use the same on all machines")
            )


def agreed(steps: Iterable[int] | None) -> int | None:
    """Return the last step that all ranks have, or None. A rank that passes None accepts every step."""
    from torch import distributed

    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, None if steps is None else list(steps))
    return max(set.intersection(*(set(steps) for steps in found if steps is not None)), default=None)


def meet() -> None:
    """Wait for the other ranks, if there are any."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()


def of_first_rank(make: Callable[[], T]) -> T:
    """Make a value on rank 0 and hand it to the others; without a group, make it here."""
    from torch import distributed

    if not distributed.is_initialized():
        return make()
    found: list[Any] = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(found, src=0)
    value: T = found[0]
    return value


def any_of(flag: int) -> int:
    """Return the largest of the ranks' numbers."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor([flag], device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return int(found.item())


def forget_peak_memory() -> int:
    """Reset the GPU's peak memory statistics, and return the peak from now on, see `used_memory`."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return used_memory()


def peak_memory() -> dict[str, int]:
    """Return the peak memory of training, of the rank with the highest peak, in bytes.

    On a GPU, `peak_memory_bytes` counts tensors, and `peak_reserved_bytes` the memory that torch reserved for them.
    Elsewhere `peak_memory_bytes` is the largest resident size of the process.
    """
    import torch

    if not torch.cuda.is_available():
        return {"peak_memory_bytes": any_of(used_memory())}
    found = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    return {name: any_of(size) for name, size in zip(("peak_memory_bytes", "peak_reserved_bytes"), found, strict=True)}


def used_memory() -> int:
    """Return the peak memory of this process so far, in bytes: of its GPU for tensors, or of the machine on a CPU."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident_bytes()


PIECE = 64 * 2**20
"""Chunk size for copying a file, in bytes."""


def hand_out(file: Path, keeps: bool) -> None:
    """Copy a file from rank 0 to the other machines. Every rank must call it, with its own path.

    Args:
        file: path in the run directory of this rank's machine.
        keeps: True if this rank writes on its machine.
    """
    from torch import distributed

    is_source = distributed.get_rank() == 0
    staged = file.with_name(f".{file.name}.new") if keeps and not is_source else None
    with (
        file.open("rb") if is_source else contextlib.nullcontext() as source,
        staged.open("wb") if staged else contextlib.nullcontext() as kept,
    ):
        while piece := _from_first(source.read(PIECE) if source else b""):
            if kept:
                kept.write(piece)
    if staged:
        staged.replace(file)


def _from_first(value: bytes) -> bytes:
    """Broadcast a value from rank 0."""
    from torch import distributed

    found = [value]
    distributed.broadcast_object_list(found, src=0)
    return found[0]


_KINDS = {"none": {"NO"}, "ddp": {"MULTI_CPU", "MULTI_GPU"}, "fsdp": {"FSDP"}, "deepspeed": {"DEEPSPEED"}}
"""The strategies' names in accelerate."""


def check_world(trainer: Trainer, rank: Rank, requested: Strategy) -> DistributedRecord:
    """Check that accelerate runs the requested strategy; it silently falls back to fewer processes and simpler ones.

    Raises:
        RunError: if the number of processes or the strategy differs from the request.
    """
    from torch import distributed

    strategy = requested.strategy if isinstance(requested, Processes) and distributed.is_initialized() else "none"
    found, kind = trainer.accelerator.num_processes, trainer.accelerator.distributed_type.value
    if found != rank.world or kind not in _KINDS[strategy]:
        what = f"`{strategy}` with {rank.world} processes was requested, but accelerate runs {kind} with {found}"
        raise RunError(Problem("", what, "report this as a bug"))
    backend = distributed.get_backend() if strategy != "none" else None
    return DistributedRecord(strategy=strategy, world_size=found, backend=backend)


def check_wrapped(trainer: Trainer, strategy: Strategy) -> None:
    """Check that the model trained as one of several. Raises `RunError` if gradients or weights were not shared."""
    from torch import distributed
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    wrapped: Any = trainer.model_wrapped
    if isinstance(strategy, DeepSpeed):
        stage = getattr(wrapped, "zero_optimization_stage", lambda: None)()
        is_right = stage == strategy.zero_stage
    elif isinstance(strategy, Fsdp):
        is_right = isinstance(wrapped, FSDPModule)
    else:  # accelerate does not wrap a model on a single GPU
        is_right = isinstance(wrapped, DistributedDataParallel) or distributed.get_world_size() == 1
    if not is_right:
        what = f'`strategy = "{strategy.strategy}"` was requested, but a {type(wrapped).__name__} was trained'
        raise RunError(Problem("", what, "report this as a bug"))


def in_whole_batches(rows: datasets.Dataset, size: int) -> datasets.Dataset:
    """Pad the evaluation rows with rows without labels until all ranks have the same number of batches.

    accelerate would pad with rows that count, and then truncate the gathered results to the number of rows.
    """
    import datasets

    missing = -len(rows) % size
    if not missing:
        return rows
    shortest = min(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))
    row = {name: _nothing(value) if name.endswith("labels") else value for name, value in rows[shortest].items()}
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_list([row] * missing, features=rows.features)])


def _nothing(labels: Any) -> Any:
    """Replace labels by ignored ones: -100 for ids, and NaN for scores, because any number could be a score."""
    if isinstance(labels, list):
        return [_nothing(label) for label in labels]
    return math.nan if isinstance(labels, float) else IGNORED
