"""The processes of a run on a machine: how many, what is wrong with them, and which strategy has room."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from lora_ns.errors import Problem
from lora_ns.machine.hardware import Machine
from lora_ns.plan.memory import MemoryEstimate
from lora_ns.recipe.distributed import AutoStrategy, Ddp, DeepSpeed, Fsdp, OneProcess, Processes, Strategy
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.distributed import processes_train_together, weights_can_be_divided


def count_here(asked: Strategy, machine: Machine) -> int:
    """Processes on this machine, by the recipe and the GPUs."""
    if not isinstance(asked, Processes):
        return 1
    return max(1, len(machine.gpus)) if asked.num_processes == "auto" else asked.num_processes


def count_processes(asked: Strategy, machine: Machine) -> int:
    """Processes that train together: as many on every machine as on this one."""
    return asked.nodes * count_here(asked, machine)


def data_parallel_size(asked: Strategy, count: int) -> int:
    """Of `count` processes, those with rows of their own: what shares each row has the same ones."""
    return max(1, count // asked.row_parts)


def choose_strategy(recipe: Recipe, machine: Machine, fits: Callable[[Recipe], bool]) -> tuple[Strategy, str]:
    """The strategy that `auto` stands for, or the one that is asked for, and why it is that one.

    Args:
        recipe: what is asked for.
        machine: what there is to train with.
        fits: whether one row of a recipe, with a strategy, fits into memory.
    """
    asked = recipe.distributed
    if not isinstance(asked, AutoStrategy):
        return asked, ""
    count = count_processes(asked, machine)
    shared = asked.model_dump(exclude={"strategy"})
    ddp = Ddp.model_validate({"strategy": "ddp", **shared})
    if count == 1:
        return OneProcess(), "one process"
    if not machine.gpus:
        return ddp, "weights are divided among GPUs"
    choices = (
        (ddp, "a step fits into each GPU"),
        (Fsdp.model_validate({"strategy": "fsdp", **shared}), f"the weights fit if they are divided over {count} GPUs"),
        (
            DeepSpeed.model_validate({"strategy": "deepspeed", "zero_stage": 3, **_ON_CPU, **shared}),
            f"the weights do not fit into {count} GPUs, and stay in the memory of the CPU",
        ),
    )
    for strategy, why in choices:
        candidate = recipe.model_copy(update={"distributed": strategy})
        broken = processes_train_together(candidate) or weights_can_be_divided(candidate)
        if broken is None and fits(candidate):
            return strategy, why
    return ddp, "no other one fits either"


_ON_CPU = {"offload_optimizer": "cpu", "offload_param": "cpu"}


def in_each_process(memory: MemoryEstimate, asked: Strategy, count: int, layers: int) -> MemoryEstimate:
    """What a process needs of the memory of one that trains alone.

    Args:
        memory: of one process with everything.
        asked: how the work is divided.
        count: number of processes.
        layers: of the base; where weights are divided, two of them are whole at a time.
    """
    if not isinstance(asked, (Fsdp, DeepSpeed)):
        return memory
    is_offloaded = asked.cpu_offload if isinstance(asked, Fsdp) else asked.offload_param != "none"
    gathered = min(memory.weights, 2 * memory.weights // max(1, layers))
    weights = gathered + (0 if is_offloaded else (memory.weights - gathered) // count)
    at_cpu = is_offloaded if isinstance(asked, Fsdp) else asked.offload_optimizer != "none"
    return replace(
        memory,
        weights=weights if asked.shards else memory.weights,
        optimizer=0 if at_cpu else memory.optimizer // count,
    )


def process_problems(recipe: Recipe, machine: Machine) -> list[Problem]:
    """Each process has a device of its own and an equal part of every batch."""
    asked, key = recipe.distributed, "distributed.num_processes"
    count = count_processes(asked, machine)
    if not isinstance(asked, Processes):
        return []
    if not machine.gpus and asked.num_processes == "auto":
        what = '"auto" is one for each GPU, and there is none here'
        return [Problem("", what, "write a number, such as `--num-processes 2`", key=key)]
    if machine.accelerator == "mps" and count > 1:
        return [Problem("", "an Apple GPU trains in one process", "write 1", key=key)]
    most, here = len(machine.gpus) or machine.cores, count_here(asked, machine)
    if here > most:
        have = f"{most} GPU{'s' * (most > 1)}" if machine.gpus else f"{most} core{'s' * (most > 1)}"
        what = f"{here} processes, and there {'is' if most == 1 else 'are'} {have} here"
        return [Problem("", what, f"write at most {most}", key=key)]
    return [
        *_division_problems(recipe, machine, count),
        *_row_part_problems(recipe, count),
        *_share_problems(recipe, data_parallel_size(asked, count)),
    ]


def _division_problems(recipe: Recipe, machine: Machine, count: int) -> list[Problem]:
    """What divides weights has someone to divide them with."""
    if not isinstance(recipe.distributed, Fsdp):
        return []
    key = "distributed.strategy"
    if machine.accelerator != "cuda":
        what = f'accelerate\'s "fsdp" needs GPUs, and divides nothing on {machine.accelerator}'
        return [Problem("", what, 'write "ddp", or "deepspeed" with `zero_stage = 3`', key=key)]
    if count == 1:
        return [Problem("", '"fsdp" divides the weights, and there is one process', 'write "none"', key=key)]
    return []


def _row_part_problems(recipe: Recipe, count: int) -> list[Problem]:
    """A row is divided among all processes, or none."""
    key, parts = "distributed.context_parallel_size", recipe.distributed.row_parts
    if parts in {1, count}:
        return []
    what = f"{parts} processes share a row, and there are {count}"
    return [Problem("", what, f"write {count}" if count > 1 else "write 1", key=key)]


def _share_problems(recipe: Recipe, count: int) -> list[Problem]:
    """A batch that does not divide over the processes."""
    training, key = recipe.training, "training.global_batch_size"
    micro = training.per_device_train_batch_size
    unit = count if micro == "auto" else count * micro
    total = training.global_batch_size
    if total is None or total % unit == 0:
        return []
    above = unit * math.ceil(total / unit)
    choices = f"{above - unit} or {above}" if total > unit else str(above)
    each = "" if micro == "auto" else f" with {micro} rows at once"
    what = f"{total} does not divide over {count} processes{each}"
    return [Problem("", what, f"write {choices}", key=key)]
