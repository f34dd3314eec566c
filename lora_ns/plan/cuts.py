"""What a run can do without to need less memory, and what that costs."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lora_ns.errors import LoransError
from lora_ns.plan.fit import USABLE_MEMORY
from lora_ns.plan.plan import Plan
from lora_ns.recipe.distributed import Ddp
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.recipe.recipe import Recipe


@dataclass(frozen=True)
class Cut:
    """A change of a recipe that saves memory."""

    overrides: tuple[str, ...]
    """As for `--set`."""
    says: str
    """What it costs."""
    time: float = 1.0
    """Time of a step, as a multiple of that without it; a rule of thumb."""
    harm: float = 0.0
    """How much the trained model may differ, on the scale of `time`."""

    @property
    def cost(self) -> float:
        """What cuts are ordered by."""
        return max(0.0, self.time - 1) + self.harm


@dataclass(frozen=True)
class Proposal:
    """Some cuts together, planned again."""

    overrides: tuple[str, ...]
    memory_bytes: int
    step_time: float
    """Time of a step, as a multiple of that of the recipe; a rule of thumb."""
    costs: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """Whether a plan fits into a size, and what would make it fit."""

    size_bytes: int
    usable_bytes: int
    """The part that an estimate may use."""
    memory_bytes: int
    proposals: tuple[Proposal, ...] = ()
    """The cheapest first; none if the plan fits."""
    smallest: Proposal | None = None
    """What needs least of all that was found, if nothing fits."""

    @property
    def fits(self) -> bool:
        """True if the plan fits as it is."""
        return self.memory_bytes <= self.usable_bytes


MOST_PROPOSALS = 3
_MOST_PLANS = 120
"""Plans that are made at most: each takes some milliseconds."""
_LEAST_RANK = 4


def fit_into(size: int, plan: Plan, memory: int, recipe: Recipe, plan_with: Callable[[Sequence[str]], Plan]) -> Fit:
    """The cheapest cuts that make a plan fit.

    Args:
        size: memory of each device, in bytes.
        plan: the plan for such devices.
        memory: bytes that it needs.
        recipe: the recipe of the plan, as it is trained.
        plan_with: makes the plan of the recipe with further overrides. Raises `LoransError` if they are refused.
    """
    usable = int(USABLE_MEMORY * size)
    if memory <= usable:
        return Fit(size, usable, memory)
    choices = [cuts for cuts in candidates(recipe, plan) if cuts]
    levels = sorted(itertools.product(*(range(len(cuts) + 1) for cuts in choices)), key=lambda one: _cost(choices, one))
    strongest = tuple(map(len, choices))
    found: dict[tuple[int, ...], Proposal] = {}
    smallest: Proposal | None = None
    for chosen in (*levels[1:_MOST_PLANS], strongest):
        if len(found) == MOST_PROPOSALS:
            break
        if any(all(map(operator.le, fewer, chosen)) for fewer in found):
            continue  # it cuts what fits already
        if (proposal := _planned(_chosen(choices, chosen), plan_with)) is None or proposal.memory_bytes >= memory:
            continue
        if proposal.memory_bytes <= usable:
            found[chosen] = proposal
        if smallest is None or proposal.memory_bytes < smallest.memory_bytes:
            smallest = proposal
    return Fit(size, usable, memory, tuple(found.values()), None if found else smallest)


def _chosen(choices: Sequence[Sequence[Cut]], levels: Sequence[int]) -> list[Cut]:
    """The cut of each kind, by its strength from 1; 0 for none."""
    return [cuts[level - 1] for cuts, level in zip(choices, levels, strict=True) if level]


def _cost(choices: Sequence[Sequence[Cut]], levels: Sequence[int]) -> tuple[float, int]:
    cuts = _chosen(choices, levels)
    return round(sum(cut.cost for cut in cuts), 6), len(cuts)


def _planned(cuts: Sequence[Cut], plan_with: Callable[[Sequence[str]], Plan]) -> Proposal | None:
    """Some cuts, planned again; None if they are refused."""
    overrides = tuple(override for cut in cuts for override in cut.overrides)
    try:
        plan = plan_with(overrides)
    except LoransError:
        return None
    if (memory := plan.memory_bytes.value) is None:
        return None
    overrides += tuple(_chosen_for_the_size(plan))
    return Proposal(overrides, memory, math.prod(cut.time for cut in cuts), tuple(cut.says for cut in cuts))


def _chosen_for_the_size(plan: Plan) -> Iterator[str]:
    """What the plan chose for devices of the size, which a machine with more memory would choose otherwise."""
    recomputes, micro = plan.gradient_checkpointing, plan.per_device_train_batch_size
    if recomputes.origin == "computed" and recomputes.value:
        yield "training.gradient_checkpointing=true"
    if micro.origin == "computed":
        yield f"training.per_device_train_batch_size={micro.value}"


def candidates(recipe: Recipe, plan: Plan) -> Iterator[list[Cut]]:
    """For each thing that can be cut, the ways to do it, the weakest first."""
    training, micro = recipe.training, plan.per_device_train_batch_size.value
    if not plan.gradient_checkpointing.value and recipe.peft.capabilities.gradient_checkpointing is True:
        says = "activations are computed twice: about a third more time, the same result"
        yield [Cut(("training.gradient_checkpointing=true",), says, time=1.33)]
    yield list(_smaller_batches(plan, micro))
    if recipe.quantization.bits is None:
        yield [
            Cut(
                (f"quantization.method=bnb-{bits}bit",),
                f"the base in {bits} bits: about {time - 1:.0%} more time, and its answers differ a little",
                time=time,
                harm=harm,
            )
            for bits, time, harm in ((8, 1.5, 0.05), (4, 1.25, 0.2))
        ]
    if _state(training.optim) > _state(_SMALL_OPTIMIZER):
        says = "the optimizer's state in 8 bits: much the same result"
        yield [Cut((f"training.optim={_SMALL_OPTIMIZER}",), says, time=1.02, harm=0.02)]
    yield list(_smaller_ranks(recipe, plan))
    yield list(_shorter_rows(recipe, plan))
    if isinstance(recipe.distributed, Ddp) and plan.world_size.value > 1:
        kind = ("distributed.strategy=deepspeed",)
        yield [
            Cut((*kind, "distributed.zero_stage=2"), "gradients and optimizer are divided: the same result", time=1.05),
            Cut((*kind, "distributed.zero_stage=3"), "the weights are divided too: more traffic", time=1.3),
        ]


_SMALL_OPTIMIZER = "paged_adamw_8bit"


def _state(optimizer: str) -> int:
    """Return the bytes of an optimizer's state for a usual factor of an adapter."""
    return OPTIMIZERS[optimizer].state_bytes([(16, 4096)])


def _smaller_batches(plan: Plan, micro: int) -> Iterator[Cut]:
    """Smaller micro-batches of the same global batch."""
    if plan.per_device_train_batch_size.origin == "computed":
        return  # it is the largest that fits
    total, time = micro * plan.gradient_accumulation_steps.value, 1.0
    for size in range(micro - 1, 0, -1):
        if total % size or (size > 1 and size > micro // 2):
            continue
        time += 0.06
        says = f"{total // size} micro-batches of {size} in each step: the same result, less work at once"
        is_written = plan.gradient_accumulation_steps.origin != "computed"
        other = f"training.global_batch_size={plan.global_batch_size.value}"
        if is_written:
            other = f"training.gradient_accumulation_steps={total // size}"
        yield Cut((f"training.per_device_train_batch_size={size}", other), says, time=time)


def _smaller_ranks(recipe: Recipe, plan: Plan) -> Iterator[Cut]:
    factors, rank = recipe.peft.factors, plan.rank.value
    for part in (2, 4) if factors and rank else ():
        if factors and rank and rank // part >= _LEAST_RANK:
            says = f"rank {rank // part} instead of {rank}: the adapter can learn less"
            yield Cut((f"peft.{factors.key}={rank // part}",), says, harm=0.1 * part)


def _shorter_rows(recipe: Recipe, plan: Plan) -> Iterator[Cut]:
    length = plan.max_seq_length.value
    for share, harm in ((0.75, 0.5), (0.5, 0.9), (0.25, 1.6)):
        if (shorter := int(length * share) // 8 * 8) >= _LEAST_LENGTH:
            says = f"rows of at most {shorter:,} tokens, not {length:,}: `lorans validate --data` counts longer ones"
            yield Cut((f"{recipe.objective.key('max_seq_length')}={shorter}",), says, time=share, harm=harm)


_LEAST_LENGTH = 64


def memory_cuts(recipe: Recipe, rows: int, checkpointing: bool) -> Iterator[str]:
    """The changes of a recipe that save memory in a training step and are not made yet, in words.

    Args:
        recipe: the recipe.
        rows: rows of a batch that were computed at once.
        checkpointing: whether activations are recomputed.
    """
    if rows > 1 and not (recipe.objective.compares_rows and rows == 2):
        yield "halve `per_device_train_batch_size`"
    if not checkpointing and recipe.peft.capabilities.gradient_checkpointing is True:
        yield "set `gradient_checkpointing = true`"
    if recipe.quantization.bits is None:
        yield 'quantise the base with `[quantization] method = "bnb-4bit"`'
    yield f"lower `{recipe.objective.key('max_seq_length')}`"
    if (factors := recipe.peft.factors) and factors.rank > _LEAST_RANK:
        yield f"lower `peft.{factors.key}`"
