"""`[distributed]`: training in several processes, one class per strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from lora_ns.table import PLACE, Name, NonNegativeInt, PositiveInt, Table


class Strategy(Table):
    """Keys and properties of every strategy."""

    strategy: str
    accelerate_config: Name | None = None
    """YAML file from `accelerate config`, relative to the recipe. It fills in keys that the recipe leaves out."""

    @property
    def shards(self) -> bool:
        """True if each process holds only a part of the weights."""
        return False

    @property
    def row_parts(self) -> int:
        """Number of processes that share each training row."""
        return 1

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return 1

    @property
    def restarts(self) -> int:
        """Number of times that all processes may be restarted."""
        return 0


class OneProcess(Strategy):
    """One process on one device."""

    strategy: Literal["none"] = "none"
    """A single process."""


class Processes(Strategy):
    """Several processes, each with its own device."""

    num_processes: Literal["auto"] | PositiveInt = "auto"
    """Processes per machine; `auto` is one per GPU. On a CPU, give a number."""
    num_nodes: PositiveInt = 1
    """Number of machines. Run the same command on each."""
    rdzv_endpoint: Annotated[str, Field(pattern=PLACE)] | None = None
    """Rendezvous endpoint: address and port of one of the machines, such as `10.0.0.1:29500`."""
    max_restarts: NonNegativeInt = 0
    """Number of times to restart all processes from the last checkpoint after one has died."""
    timeout: PositiveInt = 1800
    """Seconds that a process waits for the others before the run fails."""

    @property
    def nodes(self) -> int:
        """Number of machines, from the recipe."""
        return self.num_nodes

    @property
    def restarts(self) -> int:
        """Number of restarts, from the recipe."""
        return self.max_restarts


class Ddp(Processes):
    """PyTorch's `DistributedDataParallel`: each process has the whole model and a part of every batch."""

    strategy: Literal["ddp"]
    """Data parallelism: each process has the whole model."""


class Fsdp(Processes):
    """PyTorch's `fully_shard` (FSDP2): each process has a shard of every weight, and a part of every batch."""

    strategy: Literal["fsdp"]
    """Sharded weights, gathered layer by layer when they are needed."""
    reshard_after_forward: bool = True
    """Free a layer's gathered weights after its forward pass, and gather them again for the backward pass."""
    cpu_offload: bool = False
    """Offload weights, gradients and optimizer state to CPU memory while they are not in use."""

    @property
    def shards(self) -> bool:
        """True: FSDP always shards the weights."""
        return True


class DeepSpeed(Processes):
    """DeepSpeed's ZeRO: the stage decides which of optimizer state, gradients and weights are partitioned."""

    strategy: Literal["deepspeed"]
    """DeepSpeed's ZeRO."""
    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO stage: 1 partitions the optimizer state, 2 gradients as well, 3 weights as well."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Offload the optimizer state and the optimizer step from the GPU to this device."""
    offload_param: Literal["none", "cpu", "nvme"] = "none"
    """Offload weights to this device while they are not in use; needs stage 3."""
    nvme_path: Name | None = None
    """Folder on a fast disk for offloading to `nvme`."""
    deepspeed_config: Name | None = None
    """Your own DeepSpeed configuration (JSON), relative to the recipe. It must not contradict the recipe."""
    context_parallel_size: PositiveInt = 1
    """Number of processes that share each row, for long rows: 1, or all of them, each with a part of the row."""

    @property
    def row_parts(self) -> int:
        """Number of processes that share each row, from the recipe."""
        return self.context_parallel_size

    @property
    def shards(self) -> bool:
        """True for stage 3, which partitions the weights."""
        return self.zero_stage == 3


class AutoStrategy(Processes):
    """The simplest strategy that fits into memory: `ddp`, then `fsdp`, then ZeRO-3 with weights on the CPU."""

    strategy: Literal["auto"]
    """Chosen by the plan, which gives the reason."""


Distributed = Annotated[OneProcess | Ddp | Fsdp | DeepSpeed | AutoStrategy, Field(discriminator="strategy")]


STRATEGIES: Mapping[str, type[Strategy]] = {
    "none": OneProcess,
    "ddp": Ddp,
    "fsdp": Fsdp,
    "deepspeed": DeepSpeed,
    "auto": AutoStrategy,
}
"""Table classes by `strategy`."""


def is_launched(strategy: Strategy, processes: int) -> bool:
    """Return whether a launcher starts the processes of a run. DeepSpeed needs one even for a single process."""
    return processes > 1 or isinstance(strategy, DeepSpeed)
