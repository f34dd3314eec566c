"""The processes of a run on a machine: their number, their problems, and the strategy that fits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from lora_ns.errors import Problem
from lora_ns.machine.hardware import Machine
from lora_ns.plan.memory.estimate import MemoryEstimate
from lora_ns.recipe.distributed import AutoStrategy, Ddp, DeepSpeed, Fsdp, OneProcess, Processes, Strategy
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.distributed import processes_train_together, weights_can_be_divided
from lora_ns.recipe.rules.objective import objective_divides_weights


def count_here(strategy: Strategy, machine: Machine) -> int:
    """Return the number of processes on this machine, from the recipe and the GPUs."""
    if not isinstance(strategy, Processes):
        return 1
    return max(1, len(machine.gpus)) if strategy.num_processes == "auto" else strategy.num_processes


def count_processes(strategy: Strategy, machine: Machine) -> int:
    """Return the number of processes on all machines; each has as many as this one."""
    return strategy.nodes * count_here(strategy, machine)


def data_parallel_size(strategy: Strategy, count: int) -> int:
    """Return how many of `count` processes have rows of their own; processes that share each row count as one."""
    return max(1, count // strategy.row_parts)


def choose_strategy(recipe: Recipe, machine: Machine, fits: Callable[[Recipe], bool]) -> tuple[Strategy, str]:
    """Return the recipe's strategy, or the one that `auto` chooses, with the reason.

    Args:
        recipe: the recipe.
        machine: cores, memory and GPUs.
        fits: returns whether one row of a recipe fits into memory with its strategy.
    """
    requested = recipe.distributed
    if not isinstance(requested, AutoStrategy):
        return requested, ""
    count = count_processes(requested, machine)
    shared = requested.model_dump(exclude={"strategy"})
    ddp = Ddp.model_validate({"strategy": "ddp", **shared})
    if count == 1:
        return OneProcess(), "one process"
    if recipe.objective.compares_rows:
        return OneProcess(), "one process, because the loss compares the rows of a batch"
    if not machine.gpus:
        return ddp, "sharding needs GPUs"
    choices = (
        (ddp, "a step fits into each GPU"),
        (Fsdp.model_validate({"strategy": "fsdp", **shared}), f"the weights fit when sharded over {count} GPUs"),
        (
            DeepSpeed.model_validate({"strategy": "deepspeed", "zero_stage": 3, **_ON_CPU, **shared}),
            f"the weights do not fit into {count} GPUs, and are offloaded to CPU memory",
        ),
    )
    for strategy, why in choices:
        candidate = recipe.model_copy(update={"distributed": strategy})
        rules = (processes_train_together, weights_can_be_divided, objective_divides_weights)
        broken = next(filter(None, (rule(candidate) for rule in rules)), None)
        if broken is None and fits(candidate):
            return strategy, why
    return ddp, "no other strategy fits either"


_ON_CPU = {"offload_optimizer": "cpu", "offload_param": "cpu"}


_GRADIENTS_DIVIDED = 2
"""Stage of ZeRO from which gradients are divided, too."""


def in_each_process(memory: MemoryEstimate, strategy: Strategy, count: int, layers: int) -> MemoryEstimate:
    """Return the memory that one of several processes needs.

    Args:
        memory: estimate for a single process.
        strategy: the strategy.
        count: number of processes.
        layers: layers of the base; sharded weights are gathered for two of them at a time.
    """
    if not isinstance(strategy, (Fsdp, DeepSpeed)):
        return memory
    is_offloaded = strategy.cpu_offload if isinstance(strategy, Fsdp) else strategy.offload_param != "none"
    gathered = min(memory.weights, 2 * memory.weights // max(1, layers))
    weights = gathered + (0 if is_offloaded else (memory.weights - gathered) // count)
    at_cpu = is_offloaded if isinstance(strategy, Fsdp) else strategy.offload_optimizer != "none"
    is_whole = isinstance(strategy, DeepSpeed) and strategy.zero_stage < _GRADIENTS_DIVIDED
    return replace(
        memory,
        weights=weights if strategy.shards else memory.weights,
        gradients=0 if at_cpu else memory.gradients if is_whole else memory.gradients // count,
        optimizer=0 if at_cpu else memory.optimizer // count,
    )


def process_problems(recipe: Recipe, machine: Machine) -> list[Problem]:
    """Check that each process has its own device, and an equal part of every batch."""
    strategy, key = recipe.distributed, "distributed.num_processes"
    count = count_processes(strategy, machine)
    if not isinstance(strategy, Processes):
        return []
    if not machine.gpus and strategy.num_processes == "auto":
        what = '"auto" is one process per GPU, but this machine has no GPU'
        return [Problem("", what, "write a number, such as `--num-processes 2`", key=key)]
    if machine.accelerator == "mps" and count > 1:
        return [Problem("", "an Apple GPU trains in a single process", "write 1", key=key)]
    most, here = len(machine.gpus) or machine.cores, count_here(strategy, machine)
    if here > most:
        have = f"{most} GPU{'s' * (most > 1)}" if machine.gpus else f"{most} core{'s' * (most > 1)}"
        what = f"{here} processes, but this machine has {have}"
        return [Problem("", what, f"write at most {most}", key=key)]
    return [
        *_division_problems(recipe, machine, count),
        *_row_part_problems(recipe, count),
        *_share_problems(recipe, data_parallel_size(strategy, count)),
    ]


def _division_problems(recipe: Recipe, machine: Machine, count: int) -> list[Problem]:
    """Check that FSDP has GPUs, and several processes."""
    if not isinstance(recipe.distributed, Fsdp):
        return []
    key = "distributed.strategy"
    if machine.accelerator != "cuda":
        what = f'"fsdp" needs GPUs: accelerate shards nothing on {machine.accelerator}'
        return [Problem("", what, 'write "ddp", or "deepspeed" with `zero_stage = 3`', key=key)]
    if count == 1:
        return [Problem("", '"fsdp" shards the weights, but there is only one process', 'write "none"', key=key)]
    return []


def _row_part_problems(recipe: Recipe, count: int) -> list[Problem]:
    """Check that all processes share each row, or none."""
    key, parts = "distributed.context_parallel_size", recipe.distributed.row_parts
    if parts in {1, count}:
        return []
    what = f"{parts} processes share each row, but there are {count}"
    return [Problem("", what, f"write {count}" if count > 1 else "write 1", key=key)]


def _share_problems(recipe: Recipe, count: int) -> list[Problem]:
    """Check that the processes get equal parts of the global batch."""
    training, key = recipe.training, "training.global_batch_size"
    micro = training.per_device_train_batch_size
    unit = count if micro == "auto" else count * micro
    total = training.global_batch_size
    if total is None or total % unit == 0:
        return []
    above = unit * math.ceil(total / unit)
    choices = f"{above - unit} or {above}" if total > unit else str(above)
    each = "" if micro == "auto" else f" with micro-batches of {micro}"
    what = f"{total} is not divisible by {count} processes{each}"
    return [Problem("", what, f"write {choices}", key=key)]
