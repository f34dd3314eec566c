"""Choices that depend on memory: micro-batch, gradient checkpointing and strategy."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from lora_ns.machine.hardware import Machine
from lora_ns.methods.base import StartMemory
from lora_ns.model.attention import (
    LONGEST_IN_PRODUCTS,
    is_faster_by_rows,
    may_attend_by_rows,
    multiplies_short_rows,
    sees_whole_rows,
)
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.activations import Step
from lora_ns.plan.memory.band import Band
from lora_ns.plan.memory.estimate import (
    MemoryEstimate,
    Scoring,
    estimate,
    normalised_at_once,
    positions_at_once,
    start_memory,
)
from lora_ns.plan.memory.exact import ExactTerms, exact_terms
from lora_ns.plan.memory.weights import BYTES
from lora_ns.plan.plan import DataFacts, Derived, computed, written_value
from lora_ns.plan.processes import choose_strategy, count_here, count_processes, in_each_process
from lora_ns.plan.settled import Settled
from lora_ns.plan.sizes import adapted_shapes, planned_dtype
from lora_ns.quantizers.base import DTYPES
from lora_ns.recipe.recipe import Recipe

USABLE_MEMORY = 0.85
"""Fraction of the free memory that an estimate may use."""


_WORTH_TELLING = 50_000_000


LARGEST_MICRO_BATCH = {"cuda": 64, "mps": 16, "cpu": 32}


@dataclass(frozen=True)
class Batch:
    """Division of an optimizer step into micro-batches, with its memory estimate."""

    micro: Derived[int]
    accumulation: Derived[int]
    total: Derived[int]
    checkpointing: Derived[bool]
    memory: MemoryEstimate | None


def choose_strategy_that_fits(settled: Settled, machine: Machine, facts: BaseFacts | None) -> Settled:
    """Replace the strategy `auto` by the one for this machine."""

    def fits(candidate: Recipe) -> bool:
        """Return whether one row of maximum length fits, with gradient checkpointing if possible."""
        here = count_here(candidate.distributed, machine)
        recomputes = candidate.peft.capabilities.gradient_checkpointing is True
        dtype = planned_dtype(settled, machine, facts).value
        asked, fixed = replace(settled, recipe=candidate), _fixed_terms(candidate, machine, facts, dtype)
        memory = _step_memory(asked, machine, facts, dtype, 1, DataFacts(), recomputes, fixed)
        return fits_into_memory(memory, machine, here)

    strategy, why = choose_strategy(settled.recipe, machine, fits)
    return replace(settled, recipe=settled.recipe.model_copy(update={"distributed": strategy}), strategy_why=why)


def choose_batch(
    settled: Settled, machine: Machine, facts: BaseFacts | None, dtype: str, data: DataFacts, world: int
) -> Batch:
    """Choose the largest micro-batch that fits; use gradient checkpointing only if no size fits without it."""
    training = settled.recipe.training
    allowed = settled.recipe.peft.capabilities.gradient_checkpointing is True
    wanted = training.gradient_checkpointing
    choices = [bool(wanted)] if wanted != "auto" else ([False, True] if allowed else [False])
    micros, here = _micro_batches(settled.recipe, machine, world), count_here(settled.recipe.distributed, machine)
    fixed = _fixed_terms(settled.recipe, machine, facts, dtype)
    for checkpointing in choices:
        for micro in micros:
            memory = _step_memory(settled, machine, facts, dtype, micro, data, checkpointing, fixed)
            if fits_into_memory(memory, machine, here):
                return _cut(settled, micro, checkpointing, memory, facts, world)
    memory = _step_memory(settled, machine, facts, dtype, micros[-1], data, choices[-1], fixed)
    return _cut(settled, micros[-1], choices[-1], memory, facts, world)


def _share(recipe: Recipe, world: int) -> int:
    """Return the rows of one optimizer step in each process."""
    return max(1, (recipe.training.global_batch_size or recipe.objective.usual_batch) // world)


def _micro_batches(recipe: Recipe, machine: Machine, world: int) -> list[int]:
    training = recipe.training
    if training.per_device_train_batch_size != "auto":
        return [training.per_device_train_batch_size]
    largest = LARGEST_MICRO_BATCH[machine.accelerator]
    if training.gradient_accumulation_steps:
        sizes = [size for size in (64, 32, 16, 8, 4, 2, 1) if size <= min(largest, 8)]
    else:
        total = _share(recipe, world)
        sizes = [size for size in range(min(total, largest), 0, -1) if total % size == 0]
    return [size for size in sizes if size > 1 or not recipe.objective.compares_rows] or sizes


def row_length(recipe: Recipe, longest: int | None) -> int:
    """Return the tokens of a row, at most, with the virtual tokens of the method."""
    virtual = recipe.peft.virtual_length
    limit = recipe.objective.max_seq_length
    return virtual + (limit if longest is None or recipe.objective.packs else min(longest, limit))


def _fixed_terms(
    recipe: Recipe, machine: Machine, facts: BaseFacts | None, dtype: str
) -> tuple[ExactTerms, StartMemory] | None:
    """Return what a step needs however many rows it has; None if that is unknown."""
    if facts is None or not facts.hidden_size:
        return None
    shapes = adapted_shapes(recipe, facts)
    start = start_memory(recipe.peft, shapes, dtype, on_cpu=machine.accelerator == "cpu")
    return exact_terms(recipe, facts, dtype), start


def _step_memory(
    settled: Settled,
    machine: Machine,
    facts: BaseFacts | None,
    dtype: str,
    micro: int,
    data: DataFacts,
    checkpointing: bool,
    fixed: tuple[ExactTerms, StartMemory] | None,
) -> MemoryEstimate | None:
    if facts is None or fixed is None:
        return None
    recipe, on_cpu = settled.recipe, machine.accelerator == "cpu"
    peft, strategy, objective = recipe.peft, recipe.distributed, recipe.objective
    step = _step(recipe, machine, facts, dtype, micro, data)
    scored = step.tokens if objective.scores_every_token else 0
    in_parts = objective.next_token_loss and not peft.virtual_length
    at_once, normalised = (count(facts.vocab_size, on_cpu) for count in (positions_at_once, normalised_at_once))
    trains_rows = bool(peft.token_rows and getattr(peft, peft.token_rows.key))
    parts = Scoring(math.ceil(scored * data.trained_share), at_once, normalised, is_recomputed=trains_rows)
    whole = estimate(
        facts,
        exact=fixed[0],
        peft=peft,
        start=fixed[1],
        step=step,
        checkpointing=checkpointing,
        scoring=parts if in_parts else Scoring(scored),
        on_cpu=on_cpu,
        mapped=_mapped(recipe, facts, dtype) if on_cpu else 0,
        teacher_parameters=settled.teacher.parameters if settled.teacher else 0,
    )
    return in_each_process(whole, strategy, count_processes(strategy, machine), facts.num_hidden_layers)


def _step(recipe: Recipe, machine: Machine, facts: BaseFacts, dtype: str, micro: int, data: DataFacts) -> Step:
    """Return the shape of a forward pass with the longest rows."""
    strategy, objective, asked = recipe.distributed, recipe.objective, recipe.model.attn_implementation
    rows, length = micro * objective.forward_passes, math.ceil(row_length(recipe, data.longest) / strategy.row_parts)
    is_even = (data.longest is not None and data.mean_length == data.longest) or _needs_no_mask(recipe, facts)
    is_packed = objective.packs
    if is_packed:
        rows, length = 1, rows * length
        document = min(length, math.ceil(data.mean_length or length))
        documents = max(1, length // document)
        by_products = multiplies_short_rows(asked, machine.accelerator, dtype)
        pays = is_faster_by_rows(length, documents, documents * document**2, facts.hidden_size, by_products)
        if pays and is_even and leaves_out_padding(recipe, machine.accelerator):
            # Documents attend one by one, see `training.padding_free`.
            rows, length, is_packed = documents, document, False
    return Step(rows, length, dtype, _kernel(asked, machine, dtype, length), is_packed=is_packed, is_even=is_even)


def _kernel(asked: str, machine: Machine, dtype: str, length: int) -> str:
    """Return how training attends to rows of a length, by the names of `activations`."""
    if length <= LONGEST_IN_PRODUCTS and multiplies_short_rows(asked, machine.accelerator, dtype):
        return "products"
    return "sdpa" if asked == "auto" else asked


def leaves_out_padding(recipe: Recipe, device: str) -> bool:
    """Test that training may compute rows one after another: nothing in it depends on how long all of them are.

    The base has to keep them apart, too; see `training.padding_free`.
    """
    may, strategy = may_attend_by_rows(recipe.model.attn_implementation, device), recipe.distributed
    keeps_apart = recipe.peft.capabilities.packing is True and not recipe.objective.noise
    return may and keeps_apart and recipe.objective.next_token_loss and strategy.row_parts == 1 and not strategy.shards


def _needs_no_mask(recipe: Recipe, facts: BaseFacts) -> bool:
    """Test that training attends to padded rows without a mask, see `training.causal_attention`."""
    settings = facts.settings
    window = settings.get("sliding_window") if settings.get("use_sliding_window", True) else None
    sees_all = sees_whole_rows(settings.get("layer_types"), window, settings.get("attention_chunk_size"))
    return recipe.objective.next_token_loss and recipe.distributed.row_parts == 1 and sees_all


def _mapped(recipe: Recipe, facts: BaseFacts, dtype: str) -> int:
    """Return the bytes of weight files that stay mapped beside a base that is quantised as it is loaded.

    Tensors that keep their dtype, such as the embeddings, are views of the mapped file, and hold all of it.
    """
    if not recipe.quantization.bits or facts.quantization or DTYPES.get(dtype) != facts.largest_dtype:
        return 0
    return max(0, facts.parameters - facts.vocab_size * facts.hidden_size) * BYTES[dtype]


def fits_into_memory(memory: MemoryEstimate | None, machine: Machine, here: int = 1) -> bool:
    """Return whether an estimate fits into the free memory of each process."""
    free = free_memory(machine, here)
    return memory is None or not free or memory.total <= USABLE_MEMORY * free


def with_free_memory(machine: Machine, size: int) -> Machine:
    """Return a machine whose GPUs, or whose host without any, have so many bytes free."""
    if machine.gpus:
        return replace(machine, gpus=tuple(replace(gpu, free_bytes=size, memory_bytes=size) for gpu in machine.gpus))
    return replace(machine, available_bytes=size, memory_bytes=max(size, machine.memory_bytes))


def free_memory(machine: Machine, here: int = 1) -> int:
    """Return the free memory of each process, in bytes."""
    if machine.gpus:
        return min(gpu.free_bytes for gpu in machine.gpus[:here])
    return machine.available_bytes // here


def _cut(
    settled: Settled,
    micro: int,
    checkpointing: bool,
    memory: MemoryEstimate | None,
    facts: BaseFacts | None,
    world: int,
) -> Batch:
    training = settled.recipe.training
    batch_size = training.per_device_train_batch_size
    accumulation = training.gradient_accumulation_steps or max(1, _share(settled.recipe, world) // micro)
    total = micro * accumulation * world
    over = f"{world} processes" if world > 1 else ""
    is_own = training.global_batch_size or total == settled.recipe.objective.usual_batch
    unknown = _BY_RULE if facts is None else ""
    why = f"the largest that fits{unknown}" if batch_size == "auto" else ""
    return Batch(
        micro=computed(micro, why)
        if batch_size == "auto"
        else written_value(settled, "training.per_device_train_batch_size", micro),
        accumulation=written_value(settled, "training.gradient_accumulation_steps", accumulation)
        if training.gradient_accumulation_steps
        else computed(accumulation, f"global batch / micro-batch{over and f' / {over}'}"),
        total=written_value(settled, "training.global_batch_size", total)
        if is_own
        and (training.global_batch_size or (not training.gradient_accumulation_steps and batch_size == "auto"))
        else computed(total, f"micro-batch x accumulation{over and f' x {over}'}"),
        checkpointing=_checkpointing(settled, checkpointing, unknown),
        memory=memory,
    )


_BY_RULE = " (a rule of thumb: the base is not on this machine)"


def _checkpointing(settled: Settled, value: bool, unknown: str) -> Derived[bool]:
    if settled.recipe.training.gradient_checkpointing != "auto":
        return written_value(settled, "training.gradient_checkpointing", value)
    if settled.recipe.peft.capabilities.gradient_checkpointing is not True:
        return computed(value, f"{settled.recipe.peft.method} does not support it")
    if value:
        return computed(value, "one row would not fit in memory without it")
    return computed(value, f"the batch fits in memory without it{unknown}")


COMPARED_BATCHES = 32
"""Evaluation batches whose losses early stopping compares; from fewer, little is known about the noise."""


def eval_batch(settled: Settled, micro: int, rows: int | None = None, world: int = 1) -> Derived[int]:
    """Return the rows of an evaluation batch in each process."""
    training = settled.recipe.training
    batch_size = training.per_device_eval_batch_size
    if batch_size == "auto":
        group, size, why = settled.recipe.objective.eval_group_size, 2 * micro, "evaluation stores no gradients"
        if training.early_stopping_patience and rows and rows < COMPARED_BATCHES * size * world:
            size, why = max(1, rows // (COMPARED_BATCHES * world)), "early stopping compares evaluations by batches"
        return computed(-(-size // group) * group, why)
    return written_value(settled, "training.per_device_eval_batch_size", batch_size)


def memory_terms(memory: MemoryEstimate | None) -> dict[str, int]:
    """Return the bytes of each term of an estimate that is part of its total; empty if it is unknown."""
    terms = asdict(memory) if memory else {}
    return {name: size for name, size in terms.items() if name != "mapped"}


def planned_memory(memory: MemoryEstimate | None, machine: Machine, known: Band) -> Derived[int | None]:
    """Return the estimated memory of a step in bytes, with its largest part, and how far such estimates were off."""
    if memory is None:
        return computed(None, "known once the base is on this machine")
    largest = max(memory_terms(memory).items(), key=lambda term: term[1])
    start = f"; {memory.start / 1e9:.1f} GB of it to initialise the adapter" if memory.start >= _WORTH_TELLING else ""
    good = ", usually within 15 %" if machine.accelerator == "cpu" else ""
    if known.runs:
        good = f"; {known.runs} runs here took {known.low:.2f} to {known.high:.2f} times theirs"
    beside = f"; {memory.mapped / 1e9:.1f} GB of mapped files beside it" if memory.mapped >= _WORTH_TELLING else ""
    why = f"an estimate{good}; most of it {largest[0]}{start}{beside}"
    return computed(memory.total, why)
