"""Resuming a run with another number of processes, as long as that does not change the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from lora_ns.errors import PlanError, Problem, UsageError
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import Base
from lora_ns.model.load import empty_base
from lora_ns.model.randomness import drawing
from lora_ns.plan.plan import Derived, Plan
from lora_ns.plan.processes import count_processes, process_problems
from lora_ns.recipe.distributed import Ddp, DeepSpeed, Fsdp, OneProcess, Processes, Strategy
from lora_ns.recipe.recipe import Recipe
from lora_ns.recipe.rules.distributed import processes_train_together
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest

Count = int | Literal["auto"]


_OF_THE_BATCH = ("accelerator_config", "average_tokens_across_devices", "dataloader_drop_last")
"""Keys of `[training.extra]` that make the rows of a step, or their weights, depend on the number of processes."""


def asked_count(begun: Strategy, wanted: Strategy) -> Count | None:
    """The number of processes in a recipe, if the recipe changes nothing else of a run's strategy; otherwise None."""
    if not isinstance(wanted, Processes):
        return None
    if wanted.strategy == begun.strategy or (isinstance(begun, OneProcess) and isinstance(wanted, Ddp)):
        return wanted.num_processes
    return None


def with_count(begun: Strategy, count: Count) -> Strategy:
    """The strategy of a run with another number of processes."""
    if isinstance(begun, Processes):
        return begun.model_copy(update={"num_processes": count})
    return Ddp.model_validate({"strategy": "ddp", "num_processes": count})


def regrouped(run: RunDir, manifest: Manifest, base: Base, machine: Machine, strategy: Strategy) -> Manifest:
    """The manifest of a run that is resumed with another number of processes.

    Raises:
        UsageError: if the run would then train a different adapter, with the reason.
        PlanError: if the machine cannot run that many processes.
    """
    before, after = manifest.plan.world_size.value, count_processes(strategy, machine)
    recipe = manifest.recipe.model_copy(update={"distributed": strategy})
    reason = next(_reasons(recipe, manifest.plan, base, after), None)
    if reason:
        what = f"started with {_counted(before)}; {_counted(after)} would train a different adapter: {reason}"
        remedy = f"resume with `--num-processes {before}`, or start a new run"
        raise UsageError(Problem(str(run.path), what, remedy))
    if problems := process_problems(recipe, machine):
        raise PlanError(problem.located(lambda _: str(run.recipe)) for problem in problems)
    return manifest.model_copy(update={"recipe": recipe, "plan": _plan(manifest.plan, recipe, before, after)})


def _counted(count: int) -> str:
    return f"{count} process{'es' * (count > 1)}"


def _reasons(recipe: Recipe, plan: Plan, base: Base, count: int) -> Iterator[str]:
    """Reasons for which another number of processes would train a different adapter."""
    strategy = recipe.distributed
    if isinstance(strategy, (DeepSpeed, Fsdp)):
        name = f"ZeRO-{strategy.zero_stage}" if isinstance(strategy, DeepSpeed) else "FSDP"
        yield f"{name} has sharded the optimizer state among the original processes"
    if isinstance(strategy, Processes) and strategy.num_nodes > 1:
        yield "each machine has its own checkpoints"
    if finding := processes_train_together(recipe):
        yield finding.what
    yield from _batch_reasons(recipe, plan, count)
    yield from _random_reasons(recipe, base)


def _batch_reasons(recipe: Recipe, plan: Plan, count: int) -> Iterator[str]:
    """Reasons for which the rows of a step would change."""
    total, micro = plan.global_batch_size.value, plan.per_device_train_batch_size.value
    size = _micro(recipe, plan, count)
    accumulation = recipe.training.gradient_accumulation_steps
    if size is None:
        yield f"the global batch of {total} cannot be divided among them with {micro} rows per device"
    elif accumulation and accumulation != total // (size * count):
        yield f"with `gradient_accumulation_steps = {accumulation}` the global batch depends on their number"
    for key in _OF_THE_BATCH:
        if key in recipe.training.extra:
            yield f"with `training.extra.{key}` the batches depend on their number"
    rows, steps = plan.train_rows.value or 0, plan.max_steps.value or 0
    at_once = ((size or 1) * count, micro * plan.world_size.value)
    if any(rows % unit for unit in at_once) and steps * total > rows:
        yield f"{rows:,} rows are not divisible by both numbers, so other rows would be repeated at the end of an epoch"


def _random_reasons(recipe: Recipe, base: Base) -> Iterator[str]:
    """Reasons for which random numbers would change, since each process draws its own."""
    reason = ", and each process draws its own random numbers"
    settings = {**recipe.peft.model_dump(mode="json"), **recipe.peft.extra}
    dropped = [name for name, value in settings.items() if "dropout" in name and value]
    if dropped:
        yield f"`{dropped[0]}` is {settings[dropped[0]]}{reason}"
    if recipe.objective.noise:
        yield f"`neftune_noise_alpha` is {recipe.objective.noise:g}{reason}"
    if recipe.model.trust_remote_code:
        yield "the base runs its own code, whose use of random numbers is unknown"
    elif found := drawing(empty_base(base, recipe.task_type)):
        yield f"in the base, {found}{reason}"


def _micro(recipe: Recipe, plan: Plan, count: int) -> int | None:
    """Micro-batch size per process: as before, or with `auto` the largest one up to that which divides the batch."""
    total, most = plan.global_batch_size.value, plan.per_device_train_batch_size.value
    sizes = range(most, 0, -1) if recipe.training.per_device_train_batch_size == "auto" else [most]
    return next((size for size in sizes if total % (size * count) == 0), None)


def _plan(plan: Plan, recipe: Recipe, before: int, after: int) -> Plan:
    """The plan with its global batch divided among the new number of processes."""
    size = _micro(recipe, plan, after)
    assert size is not None, "`_batch_reasons` refuses a batch that cannot be divided"
    why = f"resumed with {_counted(after)}, started with {before}"

    def changed(value: int) -> Derived[int]:
        return Derived(value=value, origin="computed", why=why)

    return plan.model_copy(
        update={
            "strategy": Derived[str](value=recipe.distributed.strategy, origin="computed", why=why),
            "world_size": changed(after),
            "per_device_train_batch_size": changed(size),
            "gradient_accumulation_steps": changed(plan.global_batch_size.value // (size * after)),
        }
    )
