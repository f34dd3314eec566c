"""The plan: every number that a run derives from its recipe, the machine, the base and the data, with its origin.

`make_plan` is pure. `lorans plan` prints its result, `lorans train` executes it, the manifest stores it.
"""

from __future__ import annotations

import math

from lora_ns.errors import PlanError
from lora_ns.machine.hardware import Machine
from lora_ns.model.attention import LONGEST_IN_PRODUCTS, multiplies_short_rows
from lora_ns.model.files import BaseFacts
from lora_ns.model.published import HasFacts
from lora_ns.plan.checks import (
    attention_problems,
    batch_problems,
    cpu_problems,
    device_problems,
    lacks_sdpa,
    length_problems,
    quantization_problems,
)
from lora_ns.plan.fit import choose_batch, eval_batch, leaves_out_padding, memory_terms, planned_memory, row_length
from lora_ns.plan.memory.band import PUBLISHED, Band
from lora_ns.plan.notes import end_notes, expert_notes, plan_notes, teacher_notes
from lora_ns.plan.plan import (
    DataFacts,
    Derived,
    Plan,
    computed,
    planned_length,
    planned_objective,
    written_value,
)
from lora_ns.plan.processes import count_here, count_processes, data_parallel_size, process_problems
from lora_ns.plan.rank import planned_rank
from lora_ns.plan.rates import batch_note, has_fit, prior_rate, rank_note, rate_note, scale_note, targets_note
from lora_ns.plan.schedule import (
    UNREAD,
    epoch_steps,
    hundredths,
    interval,
    planned_rate,
    planned_steps,
    planned_warmup,
    regular_interval,
    warmup_problems,
)
from lora_ns.plan.settled import Settled
from lora_ns.plan.sizes import adapter_parameters, planned_dtype
from lora_ns.plan.speed import Measured, planned_speed
from lora_ns.plan.start import base_notes, planned_reference, planned_start, reference_notes
from lora_ns.recipe.distributed import Processes
from lora_ns.recipe.recipe import Recipe
from lora_ns.statistics import shown_by


def check_settled(settled: Settled, machine: Machine, base: HasFacts | None) -> None:
    """Check that a recipe can work on this machine and with this base. Raises `PlanError` with every problem."""
    facts, recipe = base.facts if base else None, settled.recipe
    problems = [
        *cpu_problems(settled.loaded, machine.accelerator),
        *device_problems(recipe, machine),
        *quantization_problems(recipe, machine, facts),
        *attention_problems(recipe, facts),
        *length_problems(recipe, facts),
        *process_problems(recipe, machine),
    ]
    if problems:
        raise PlanError(problems)


def make_plan(
    settled: Settled,
    machine: Machine,
    base: HasFacts | None,
    data: DataFacts,
    measured: Measured | None = None,
    known: Band = PUBLISHED,
) -> Plan:
    """Derive every number of a run.

    Args:
        settled: the recipe, settled on its base.
        machine: the machine, or the one that is planned for.
        base: the base; None if nothing is known about it.
        data: what is known about the rows.
        measured: speed of an earlier run.
        known: how far estimates of memory were off.

    Raises:
        PlanError: with every setting that cannot work on this machine, with this base or with this data.
    """
    check_settled(settled, machine, base)
    facts = base.facts if base else None
    dtype = planned_dtype(settled, machine, facts)
    adapter = adapter_parameters(settled.recipe, facts)
    world, here = _world_size(settled, machine), count_here(settled.recipe.distributed, machine)
    shares = data_parallel_size(settled.recipe.distributed, world.value)
    batch = choose_batch(settled, machine, facts, dtype.value, data, shares)
    per_epoch = epoch_steps(settled.recipe, data.train_rows, batch, shares)
    steps = planned_steps(settled, per_epoch.value)
    problems = [
        *batch_problems(settled.recipe, data.train_rows, batch, shares),
        *warmup_problems(settled.recipe, steps.value),
    ]
    if problems:
        raise PlanError(problems)
    training = settled.recipe.training
    speed = planned_speed(
        settled.recipe,
        machine,
        facts,
        world=world.value,
        checkpointing=batch.checkpointing.value,
        length=row_length(settled.recipe, data.longest),
        rows=_seen(data.train_rows, per_epoch.value, steps.value, batch.total.value),
        dtype=dtype.value,
        measured=measured,
    )
    regular, often = regular_interval(settled.recipe, per_epoch.value, steps.value)
    return Plan(
        device=computed(machine.accelerator, _device_why(machine, here)),
        strategy=_strategy(settled),
        world_size=world,
        objective=planned_objective(settled),
        start=planned_start(settled),
        reference=planned_reference(settled),
        dtype=dtype,
        attn_implementation=_attention(settled, facts, machine.accelerator, dtype.value),
        format=computed(data.format, data.format_why or UNREAD),
        train_rows=computed(data.train_rows, _rows_why(settled.recipe, data)),
        eval_rows=computed(data.eval_rows, _eval_why(settled.recipe, data)),
        max_seq_length=planned_length(settled),
        global_batch_size=batch.total,
        per_device_train_batch_size=batch.micro,
        gradient_accumulation_steps=batch.accumulation,
        per_device_eval_batch_size=eval_batch(settled, batch.micro.value, data.eval_rows, shares),
        gradient_checkpointing=batch.checkpointing,
        steps_per_epoch=per_epoch,
        max_steps=steps,
        warmup_steps=planned_warmup(settled, steps.value),
        logging_steps=interval(
            settled, "logging_steps", training.logging_steps, hundredths(steps.value), "100 rows per run"
        ),
        eval_steps=interval(settled, "eval_steps", training.eval_steps, regular, _eval_often(settled.recipe, often)),
        save_steps=interval(settled, "save_steps", training.save_steps, regular, often),
        learning_rate=planned_rate(settled, facts),
        rank=planned_rank(settled, facts),
        base_parameters=computed(facts.parameters if facts else None, _base_why(base)),
        adapter_parameters=computed(adapter, _adapter_why(adapter, base)),
        memory_bytes=planned_memory(batch.memory, machine, known),
        tokens_per_second=speed.tokens_per_second,
        duration_seconds=speed.duration_seconds,
        energy_wh=speed.energy_wh,
        disk_bytes=speed.disk_bytes,
        memory=memory_terms(batch.memory),
        mapped_bytes=batch.memory.mapped if batch.memory else 0,
        notes=(
            *dict.fromkeys((*settled.loaded.notes, *settled.notes)),
            *data.notes,
            *teacher_notes(settled.teacher, dtype.value),
            *plan_notes(settled.recipe, machine, batch, shares, data.train_rows),
            *expert_notes(settled.recipe, facts),
            *end_notes(settled.recipe),
            *unusual(settled.recipe, facts, batch.total.value),
            *reference_notes(settled, data.train_rows, steps.value and steps.value * batch.total.value),
            *base_notes(settled.recipe),
        ),
    )


def _seen(rows: int | None, per_epoch: int | None, steps: int | None, batch: int) -> int | None:
    """Return the rows that a run trains on, counting repetitions; None if the steps are not known."""
    if steps is None:
        return None
    if not rows or not per_epoch:
        return steps * batch
    return min(steps * batch, math.ceil(steps * rows / per_epoch))


def _strategy(settled: Settled) -> Derived[str]:
    strategy, why = settled.recipe.distributed.strategy, settled.strategy_why
    if not why:
        return written_value(settled, "distributed.strategy", strategy)
    return computed(strategy, why)


def _world_size(settled: Settled, machine: Machine) -> Derived[int]:
    strategy, count = settled.recipe.distributed, count_processes(settled.recipe.distributed, machine)
    if not isinstance(strategy, Processes):
        return written_value(settled, "distributed.strategy", count)
    if strategy.num_processes == "auto":
        return computed(count, "one per GPU")
    if strategy.num_nodes > 1:
        why = f"{strategy.num_processes} on each of {strategy.num_nodes} machines"
        return computed(count, why)
    return written_value(settled, "distributed.num_processes", count)


def _device_why(machine: Machine, here: int) -> str:
    if machine.gpus and here > 1:
        return f"{machine.gpus[0].name}, {here} of {len(machine.gpus)}"
    if here > 1:
        return f"{machine.cores} cores, {max(1, machine.cores // here)} per process, no GPU"
    if machine.gpus:
        more = f", the first of {len(machine.gpus)}" if len(machine.gpus) > 1 else ""
        return f"{machine.gpus[0].name}{more}"
    return f"{machine.cores} core{'s' * (machine.cores > 1)}, no GPU" if machine.accelerator == "cpu" else "Apple GPU"


def _attention(settled: Settled, facts: BaseFacts | None, device: str, dtype: str) -> Derived[str]:
    if settled.recipe.model.attn_implementation == "auto":
        if lacks_sdpa(facts):
            return computed("eager", f"{facts.model_type} does not support sdpa")
        why = ["PyTorch's fused kernel"]
        if multiplies_short_rows("auto", device, dtype):
            products = f"matrix products are faster on a CPU for rows of up to {LONGEST_IN_PRODUCTS} tokens in {dtype}"
            why.append(f"in training, {products}")
        if leaves_out_padding(settled.recipe, device):
            why.append("rows one by one, without padding, where that is faster")
        return computed("sdpa", "; ".join(why))
    return written_value(settled, "model.attn_implementation", settled.recipe.model.attn_implementation)


def _eval_why(recipe: Recipe, data: DataFacts) -> str:
    if data.eval_rows:
        return shown_by(data.eval_rows) if recipe.objective.judges_answers else ""
    return (data.eval_why or UNREAD) if _names_evaluation(recipe) and data.eval_rows is None else NO_EVALUATION


def _eval_often(recipe: Recipe, often: str) -> str:
    return often if _names_evaluation(recipe) else f"{often}, and there are {NO_EVALUATION}"


def _names_evaluation(recipe: Recipe) -> bool:
    return bool(recipe.dataset.eval_path or recipe.dataset.eval_split or recipe.dataset.eval_fraction)


NO_EVALUATION = "no evaluation rows"
"""Reason if the recipe names no evaluation rows."""


def _rows_why(recipe: Recipe, data: DataFacts) -> str:
    dataset = recipe.dataset
    if not dataset.streaming:
        return data.why or UNREAD
    size = dataset.shuffle_buffer_size
    order = f"shuffled in a buffer of {size:,}" if size else "in the order of the files"
    return f"a stream, read during training, {order}"


def _base_why(base: HasFacts | None) -> str:
    if base is None:
        return "known once the base is on this machine"
    shape = f"{base.facts.model_type}, {base.facts.num_hidden_layers} layers"
    return f"{shape}; the published shape" if base.facts.published_as else shape


def _adapter_why(parameters: int | None, base: HasFacts | None) -> str:
    if parameters is not None:
        return f"from the {'published shape' if base and base.facts.published_as else 'shapes'} of the base"
    return "run `lorans validate --model` to count them" if base else "known once the base is on this machine"


def unusual(recipe: Recipe, facts: BaseFacts | None, batch: int | None) -> list[str]:
    """Return notes on settings that are far from those known to work.

    Args:
        recipe: the recipe.
        facts: facts about the base, if it was found.
        batch: rows of an optimizer step; None if it is not decided yet.
    """
    peft, factors = recipe.peft, recipe.peft.factors
    rate = recipe.training.learning_rate
    width = facts.hidden_size if facts else None
    found = (
        rate_note(rate, prior_rate(recipe, facts), "Schulman et al. 2025; " if has_fit(recipe) else "")
        if rate is not None and facts is not None
        else None,
        batch_note(recipe.objective, batch and batch // recipe.objective.group_size),
        targets_note(recipe.objective, getattr(peft, "target_modules", "")),
        rank_note(f"peft.{factors.key}", factors.rank, width) if factors else None,
        scale_note(factors.alpha, factors.rank, factors.is_stabilised) if factors and factors.alpha else None,
    )
    return [note for note in found if note]
