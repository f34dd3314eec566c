"""Steps, warm-up, intervals and the learning rate."""

from __future__ import annotations

import math

from lora_ns.errors import Problem
from lora_ns.model.files import BaseFacts
from lora_ns.plan.fit import Batch
from lora_ns.plan.plan import Derived, computed, written_value
from lora_ns.plan.rates import usual_rate_of, usual_why
from lora_ns.plan.settled import Settled
from lora_ns.recipe.recipe import Recipe

UNREAD = "known once the data is read"


def _once_counted(value: int | None, why: str) -> Derived[int | None]:
    """Derive a number from the training rows; None before they are counted."""
    return computed(value, why if value is not None else f"{why}, known once the training rows are counted")


def epoch_steps(recipe: Recipe, rows: int | None, batch: Batch, world: int) -> Derived[int | None]:
    """Return the optimizer steps per epoch, None before the rows are known."""
    if rows is None and recipe.dataset.streaming:
        return computed(None, "a stream restarts at its end")
    if rows is None:
        return computed(None, "known once the training rows are counted")
    accumulation, objective = batch.accumulation.value, recipe.objective
    micro_batches = objective.micro_batches(rows, batch.micro.value * world, accumulation, drops_last(recipe))
    each = f", {objective.group_size} completions for each" if objective.group_size > 1 else ""
    return computed(math.ceil(micro_batches / accumulation), f"{rows:,} rows in batches of {batch.total.value}{each}")


def drops_last(recipe: Recipe) -> bool:
    """Return whether an incomplete last batch of an epoch is dropped."""
    return bool(recipe.training.extra.get("dataloader_drop_last"))


def warmup_problems(recipe: Recipe, steps: int | None) -> list[Problem]:
    """Check that the run is longer than its warm-up; a rule of the recipe does so for `max_steps`."""
    warmup = recipe.training.warmup_steps
    if not warmup or not steps or warmup < steps:
        return []
    what = f"a run of {steps:,} step{'s' * (steps > 1)} ends during its warm-up of {warmup:,}"
    return [Problem("", what, f"write at most {steps - 1:,}, or train longer", key="training.warmup_steps")]


def planned_steps(settled: Settled, per_epoch: int | None) -> Derived[int | None]:
    """Return the optimizer steps of the run, None before the rows are known."""
    training = settled.recipe.training
    if training.max_steps:
        return written_value(settled, "training.max_steps", training.max_steps)
    count = None if per_epoch is None else math.ceil(training.num_train_epochs * per_epoch)
    epochs = training.num_train_epochs
    return _once_counted(count, f"{epochs:g} epoch{'s' * (epochs != 1)}")


def planned_warmup(settled: Settled, steps: int | None) -> Derived[int | None]:
    """Return the steps of the warm-up, None before the steps of the run are known."""
    training = settled.recipe.training
    if training.warmup_steps is not None:
        return written_value(settled, "training.warmup_steps", training.warmup_steps)
    count = None if steps is None else max(0, min(math.ceil(training.warmup_ratio * steps), steps - 1))
    return _once_counted(count, f"{training.warmup_ratio:g} of the steps")


def interval(settled: Settled, key: str, steps: int | None, usual: int | None, why: str) -> Derived[int | None]:
    """Return the steps between two events of a kind, from the recipe or computed."""
    if steps is not None:
        return written_value(settled, f"training.{key}", steps)
    return _once_counted(usual, why)


def hundredths(steps: int | None) -> int | None:
    """Return a hundredth of the steps of a run, at least 1."""
    return None if steps is None else max(1, steps // 100)


def regular_interval(recipe: Recipe, per_epoch: int | None, steps: int | None) -> tuple[int | None, str]:
    """Return the default steps between two evaluations or checkpoints, with the reason."""
    if recipe.dataset.streaming and steps is not None:
        return max(1, steps // 10), "ten times per run: a stream has no known epochs"
    whole = _at_most(per_epoch, steps)
    return None if whole is None else max(1, whole), "once per epoch"


def _at_most(per_epoch: int | None, steps: int | None) -> int | None:
    known = [count for count in (per_epoch, steps) if count is not None]
    return min(known) if known else None


def planned_rate(settled: Settled, facts: BaseFacts | None) -> Derived[float]:
    """Return the peak learning rate, from the recipe or the usual one."""
    learning_rate, method = settled.recipe.training.learning_rate, settled.recipe.peft.method
    if learning_rate is not None:
        return written_value(settled, "training.learning_rate", learning_rate)
    usual = usual_rate_of(settled.recipe, facts)
    if facts is None or usual == settled.recipe.peft.capabilities.typical_learning_rate:
        return Derived(value=usual, origin="default", why=f"typical for {method}")
    return Derived(value=usual, origin="default", why=usual_why(settled.recipe, facts))
