"""A resumed run with another number of processes: where that gives the adapter that the run would have had."""

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
"""Keys of `[training.extra]` by which the rows of a step, or their weights, follow from the number of processes."""


def asked_count(begun: Strategy, wanted: Strategy) -> Count | None:
    """How many processes a recipe asks for, if that is all that it changes of those that a run was begun with."""
    if not isinstance(wanted, Processes):
        return None
    if wanted.strategy == begun.strategy or (isinstance(begun, OneProcess) and isinstance(wanted, Ddp)):
        return wanted.num_processes
    return None


def with_count(begun: Strategy, count: Count) -> Strategy:
    """The processes of a run, in another number."""
    if isinstance(begun, Processes):
        return begun.model_copy(update={"num_processes": count})
    return Ddp.model_validate({"strategy": "ddp", "num_processes": count})


def regrouped(run: RunDir, manifest: Manifest, base: Base, machine: Machine, asked: Strategy) -> Manifest:
    """The manifest of a run that is to go on with other processes than it has.

    Raises:
        UsageError: if the run would then train something else, with the reason.
        PlanError: if the machine has no room for so many.
    """
    before, after = manifest.plan.world_size.value, count_processes(asked, machine)
    recipe = manifest.recipe.model_copy(update={"distributed": asked})
    reason = next(_reasons(recipe, manifest.plan, base, after), None)
    if reason:
        what = f"begun with {_told(before)}, and {_told(after)} would train something else: {reason}"
        remedy = f"go on by `--num-processes {before}`, or start a new run"
        raise UsageError(Problem(str(run.path), what, remedy))
    if problems := process_problems(recipe, machine):
        raise PlanError(problem.located(lambda _: str(run.recipe)) for problem in problems)
    return manifest.model_copy(update={"recipe": recipe, "plan": _plan(manifest.plan, recipe, before, after)})


def _told(count: int) -> str:
    return f"{count} process{'es' * (count > 1)}"


def _reasons(recipe: Recipe, plan: Plan, base: Base, count: int) -> Iterator[str]:
    """Why another number of processes would train something else."""
    asked = recipe.distributed
    if isinstance(asked, (DeepSpeed, Fsdp)):
        name = f"ZeRO-{asked.zero_stage}" if isinstance(asked, DeepSpeed) else "FSDP"
        yield f"{name} has divided the optimizer's state among those that began"
    if isinstance(asked, Processes) and asked.num_nodes > 1:
        yield "each of several machines has checkpoints of its own"
    if finding := processes_train_together(recipe):
        yield finding.what
    yield from _batch_reasons(recipe, plan, count)
    yield from _random_reasons(recipe, base)


def _batch_reasons(recipe: Recipe, plan: Plan, count: int) -> Iterator[str]:
    """What moves the rows of a step."""
    total, micro = plan.global_batch_size.value, plan.per_device_train_batch_size.value
    size = _micro(recipe, plan, count)
    accumulation = recipe.training.gradient_accumulation_steps
    if size is None:
        yield f"the global batch of {total} does not divide over them with {micro} rows at once"
    elif accumulation and accumulation != total // (size * count):
        yield f"`gradient_accumulation_steps = {accumulation}` makes the global batch follow their number"
    for key in _OF_THE_BATCH:
        if key in recipe.training.extra:
            yield f"`training.extra.{key}` makes the batches follow their number"
    rows, steps = plan.train_rows.value or 0, plan.max_steps.value or 0
    at_once = ((size or 1) * count, micro * plan.world_size.value)
    if any(rows % unit for unit in at_once) and steps * total > rows:
        yield f"{rows:,} rows do not divide over both numbers, so that other rows come twice at the end of an epoch"


def _random_reasons(recipe: Recipe, base: Base) -> Iterator[str]:
    """What draws random numbers, which are others in each process."""
    told = ", and each process draws for itself"
    settings = {**recipe.peft.model_dump(mode="json"), **recipe.peft.extra}
    dropped = [name for name, value in settings.items() if "dropout" in name and value]
    if dropped:
        yield f"`{dropped[0]}` is {settings[dropped[0]]}{told}"
    if recipe.objective.noise:
        yield f"`neftune_noise_alpha` is {recipe.objective.noise:g}{told}"
    if recipe.model.trust_remote_code:
        yield "what code of its own a base draws is not known"
    elif found := drawing(empty_base(base, recipe.task_type)):
        yield f"of the base, {found}{told}"


def _micro(recipe: Recipe, plan: Plan, count: int) -> int | None:
    """Rows that a process takes at once: as many as before, or as the recipe leaves open, the most below that."""
    total, most = plan.global_batch_size.value, plan.per_device_train_batch_size.value
    sizes = range(most, 0, -1) if recipe.training.per_device_train_batch_size == "auto" else [most]
    return next((size for size in sizes if total % (size * count) == 0), None)


def _plan(plan: Plan, recipe: Recipe, before: int, after: int) -> Plan:
    """The plan with its batch divided anew."""
    size = _micro(recipe, plan, after)
    assert size is not None, "a batch that does not divide was refused"
    why = f"resumed with {_told(after)}, begun with {before}"

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
