"""`[distributed]`: the processes that train together, a class for each strategy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from lora_ns.table import PLACE, Name, NonNegativeInt, PositiveInt, Table


class Strategy(Table):
    """What all strategies share."""

    strategy: str
    accelerate_config: Name | None = None
    """A YAML file that `accelerate config` wrote, beside the recipe: it fills what the recipe leaves open."""

    @property
    def shards(self) -> bool:
        """Whether a process has a part of the weights alone."""
        return False

    @property
    def row_parts(self) -> int:
        """Processes among which each training row is divided."""
        return 1

    @property
    def nodes(self) -> int:
        """Machines that train together."""
        return 1

    @property
    def restarts(self) -> int:
        """How often all processes are started again."""
        return 0


class OneProcess(Strategy):
    """One process, on one device."""

    strategy: Literal["none"] = "none"
    """No other processes."""


class Processes(Strategy):
    """Several processes, each with a device of its own."""

    num_processes: Literal["auto"] | PositiveInt = "auto"
    """Processes on each machine; `auto` is one for each GPU, and on a CPU a number has to be given."""
    num_nodes: PositiveInt = 1
    """Machines that train together; the same command is given on each."""
    rdzv_endpoint: Annotated[str, Field(pattern=PLACE)] | None = None
    """Where they meet: address and port of one of them, such as `10.0.0.1:29500`."""
    max_restarts: NonNegativeInt = 0
    """How often all processes are started again from the last checkpoint after one was lost."""
    timeout: PositiveInt = 1800
    """Seconds that a process waits for the others before the run ends."""

    @property
    def nodes(self) -> int:
        """As the recipe says."""
        return self.num_nodes

    @property
    def restarts(self) -> int:
        """As the recipe says."""
        return self.max_restarts


class Ddp(Processes):
    """PyTorch's `DistributedDataParallel`: each process has the whole model and a part of every batch."""

    strategy: Literal["ddp"]
    """Data parallel processes on one machine."""


class Fsdp(Processes):
    """PyTorch's `fully_shard` (FSDP2): each process has a part of every weight, and of every batch."""

    strategy: Literal["fsdp"]
    """The weights are divided among the processes, and put together layer by layer when they are needed."""
    reshard_after_forward: bool = True
    """Give the gathered weights of a layer up after its forward pass, and gather them again for the backward pass."""
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer state in the memory of the CPU while they are not computed with."""

    @property
    def shards(self) -> bool:
        """Always."""
        return True


class DeepSpeed(Processes):
    """DeepSpeed's ZeRO: optimizer state, gradients and weights are divided among the processes, as the stage says."""

    strategy: Literal["deepspeed"]
    """DeepSpeed's engine."""
    zero_stage: Literal[1, 2, 3] = 2
    """What is divided: 1 the optimizer's state, 2 gradients too, 3 weights too."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state is kept and computed with, other than on the GPU."""
    offload_param: Literal["none", "cpu", "nvme"] = "none"
    """Where the weights are kept while they are not computed with; of stage 3."""
    nvme_path: Name | None = None
    """Folder on a fast disk for what is kept there."""
    deepspeed_config: Name | None = None
    """A DeepSpeed configuration (JSON) of your own, beside the recipe; what it says may not contradict the recipe."""
    context_parallel_size: PositiveInt = 1
    """Processes that share each training row, for long rows: 1, or all of them, which each have a part of it."""

    @property
    def row_parts(self) -> int:
        """As the recipe says."""
        return self.context_parallel_size

    @property
    def shards(self) -> bool:
        """Whether weights are divided."""
        return self.zero_stage == 3


class AutoStrategy(Processes):
    """The simplest of the others that fits into memory: `ddp`, then `fsdp`, then ZeRO-3 with weights on the CPU."""

    strategy: Literal["auto"]
    """Chosen by the plan, which says why."""


Distributed = Annotated[OneProcess | Ddp | Fsdp | DeepSpeed | AutoStrategy, Field(discriminator="strategy")]


STRATEGIES: Mapping[str, type[Strategy]] = {
    "none": OneProcess,
    "ddp": Ddp,
    "fsdp": Fsdp,
    "deepspeed": DeepSpeed,
    "auto": AutoStrategy,
}
"""The tables by their `strategy`."""


def is_launched(asked: Strategy, processes: int) -> bool:
    """Whether a run has processes of its own, started by a launcher; DeepSpeed's engine needs one even alone."""
    return processes > 1 or isinstance(asked, DeepSpeed)
