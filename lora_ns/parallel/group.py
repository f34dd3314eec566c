"""One of the processes that train together: its place among them, and what they agree on."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import MissingError, Problem, RunError
from lora_ns.parallel.sharding import put_together
from lora_ns.recipe.distributed import DeepSpeed, Fsdp, Processes, Strategy
from lora_ns.run.manifest import DistributedRecord
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer


@dataclass(frozen=True)
class Rank:
    """The place of this process among those that train together."""

    number: int = 0
    local: int = 0
    world: int = 1
    local_world: int = 1

    @classmethod
    def of(cls, surroundings: Mapping[str, str] = os.environ) -> Rank:
        """What torchrun says."""
        number, local, world = (int(surroundings[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
        return cls(number, local, world, int(surroundings.get("LOCAL_WORLD_SIZE", world)))

    @property
    def is_first(self) -> bool:
        """Whether this process writes, and tells: of several machines, each has a run of its own."""
        return self.local == 0


ALONE = Rank()


def join(rank: Rank, device: str, timeout: int) -> None:
    """Become one of the process group.

    This comes before the first `TrainingArguments`: accelerate takes the group that it finds, and its own would wait
    half an hour for a process on a CPU, whatever time was asked for.
    """
    import torch
    from torch import distributed

    if device == "cuda":
        torch.cuda.set_device(rank.local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(seconds=timeout))


_STRATEGY = "distributed.strategy"


def check_deepspeed(asked: Strategy, device: str) -> None:
    """See that DeepSpeed can be imported, and that what it compiles at its start can be compiled.

    Args:
        asked: the strategy.
        device: what is trained on; on a CPU, and for what is offloaded to one, a part of it is compiled.

    Raises:
        MissingError: before a process is started.
    """
    if not isinstance(asked, DeepSpeed):
        return
    compiler = os.environ.get("CXX", "c++")
    if (device == "cpu" or asked.offload_optimizer != "none") and shutil.which(compiler) is None:
        what = f"DeepSpeed compiles a part of itself for the CPU, and there is no `{compiler}`"
        raise MissingError(Problem("", what, 'install a C++ compiler, or write `strategy = "ddp"`', place=_STRATEGY))
    try:
        import deepspeed  # noqa: F401
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        what = f"`deepspeed` is installed, and cannot be imported: {said}"
        remedy = '`pip install --force-reinstall --no-deps deepspeed`, or write `strategy = "ddp"`'
        raise MissingError(Problem("", what, remedy, place=_STRATEGY)) from error


def is_one_of_several() -> bool:
    """Whether this process is one of a group."""
    from torch import distributed

    return distributed.is_initialized()


def leave(trainer: Trainer) -> None:
    """See that all ranks have trained the same weights, which are whole in each from now on, and end the group.

    A model whose weights are divided cannot be asked any more after this.

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
    unset_hf_deepspeed_config()  # what is opened from now on is opened whole
    other = next((number for number, found in enumerate(sums) if found != sums[0]), None)
    if other is not None:
        what = f"rank {other} has trained other weights than rank 0"
        raise RunError(Problem("", what, "do not use the run, and report this"))


def _checksum(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in model.named_parameters():
        if value.requires_grad:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_agreed(facts: Mapping[str, Any]) -> None:
    """See that all ranks are about to train the same.

    Args:
        facts: what has to be equal, by what it is called.

    Raises:
        RunError: with the first rank that has something else, its machine, and what.
    """
    from torch import distributed

    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, (socket.gethostname(), dict(facts)))
    host, first = found[0]
    for number, (other, theirs) in enumerate(found):
        different = [name for name in first if theirs.get(name) != first[name]]
        if different:
            name = different[0]
            what = f"rank {number} on {other} has other {name} than rank 0 on {host}"
            raise RunError(Problem("", f"{what}: {theirs.get(name)}, and {first[name]}", "give all machines the same"))


def agreed(steps: Iterable[int] | None) -> int | None:
    """The last of the steps that all ranks have; None if there is none. Ranks that do not say have all of them."""
    from torch import distributed

    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, None if steps is None else list(steps))
    return max(set.intersection(*(set(steps) for steps in found if steps is not None)), default=None)


def meet() -> None:
    """Wait for the other ranks, if there are any."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()


def any_of(flag: int) -> int:
    """The largest of the numbers that the ranks have."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        return flag
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor([flag], device=device)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return int(found.item())


def forget_peak_memory() -> None:
    """Count the peak of a GPU's memory anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """What training took at most of a GPU, in the rank that took the most, in bytes; nothing on a CPU.

    `peak_memory_bytes` is what tensors took, `peak_reserved_bytes` what torch held to place them.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    found = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
    return {name: any_of(size) for name, size in zip(("peak_memory_bytes", "peak_reserved_bytes"), found, strict=True)}


PIECE = 64 * 2**20
"""Bytes of a file that are handed out at once."""


def hand_out(file: Path, keeps: bool) -> None:
    """Give other machines a file as rank 0 has it. Every rank has to come here, with its own path.

    Args:
        file: in the run directory of this rank's machine.
        keeps: whether this rank writes, on its machine.
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
    """What rank 0 has of it."""
    from torch import distributed

    found = [value]
    distributed.broadcast_object_list(found, src=0)
    return found[0]


_KINDS = {"none": {"NO"}, "ddp": {"MULTI_CPU", "MULTI_GPU"}, "fsdp": {"FSDP"}, "deepspeed": {"DEEPSPEED"}}
"""What accelerate calls the strategies."""


def check_world(trainer: Trainer, rank: Rank, asked: Strategy) -> DistributedRecord:
    """What runs is what was asked for: accelerate falls back to fewer processes and simpler strategies silently.

    Raises:
        RunError: if the trainer has other processes than the launcher started, or another strategy.
    """
    from torch import distributed

    strategy = asked.strategy if isinstance(asked, Processes) and distributed.is_initialized() else "none"
    found, kind = trainer.accelerator.num_processes, trainer.accelerator.distributed_type.value
    if found != rank.world or kind not in _KINDS[strategy]:
        what = f"`{strategy}` with {rank.world} processes was asked for, and accelerate runs {kind} with {found}"
        raise RunError(Problem("", what, "report this"))
    backend = distributed.get_backend() if strategy != "none" else None
    return DistributedRecord(strategy=strategy, world_size=found, backend=backend)


def check_wrapped(trainer: Trainer, asked: Strategy) -> None:
    """The model trained as one of several. Raises `RunError` if its gradients or weights were not shared."""
    from torch import distributed
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    wrapped: Any = trainer.model_wrapped
    if isinstance(asked, DeepSpeed):
        stage = getattr(wrapped, "zero_optimization_stage", lambda: None)()
        is_right = stage == asked.zero_stage
    elif isinstance(asked, Fsdp):
        is_right = isinstance(wrapped, FSDPModule)
    else:  # accelerate wraps nothing on a GPU where there is nobody to share with
        is_right = isinstance(wrapped, DistributedDataParallel) or distributed.get_world_size() == 1
    if not is_right:
        what = f'`strategy = "{asked.strategy}"` was asked for, and a {type(wrapped).__name__} was trained'
        raise RunError(Problem("", what, "report this"))


def in_whole_batches(rows: datasets.Dataset, size: int) -> datasets.Dataset:
    """Evaluation rows, filled up by rows that have nothing to predict, until all ranks have as many batches.

    accelerate would fill up with rows that count, and cut off what was gathered by their number.
    """
    import datasets

    missing = -len(rows) % size
    if not missing:
        return rows
    shortest = min(range(len(rows)), key=lambda number: len(rows[number]["input_ids"]))
    row = {**rows[shortest], "labels": _nothing(rows[shortest]["labels"])}
    return datasets.concatenate_datasets([rows, datasets.Dataset.from_list([row] * missing, features=rows.features)])


def _nothing(labels: Any) -> Any:
    """What stands in the place of labels where there is nothing to predict: for a score, no number is ruled out."""
    if isinstance(labels, list):
        return [_nothing(label) for label in labels]
    return math.nan if isinstance(labels, float) else IGNORED
