"""Notes of a plan for the user."""

from __future__ import annotations

from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.fit import Batch, fits_into_memory, free_memory
from lora_ns.plan.memory.estimate import teacher_bytes
from lora_ns.plan.memory.weights import parameter_count, weights_of
from lora_ns.plan.processes import count_here
from lora_ns.plan.settled import TeacherSize
from lora_ns.recipe.best_metric import best_metric, is_higher_better
from lora_ns.recipe.recipe import Recipe


def plan_notes(recipe: Recipe, machine: Machine, batch: Batch, world: int, rows: int | None) -> list[str]:
    """Return notes that the user should read before starting."""
    notes = _repeated(rows, batch.micro.value * world) if world > 1 else []
    here = count_here(recipe.distributed, machine)
    if not fits_into_memory(batch.memory, machine, here) and batch.memory:
        free = free_memory(machine, here) / 1e9
        notes.append(
            f"memory: about {batch.memory.total / 1e9:.1f} GB needed, {free:.1f} GB free; "
            "shorten `max_seq_length`, lower `per_device_train_batch_size`, or quantise the base"
        )
    optim = recipe.training.optim
    if optim.startswith("paged_") and machine.accelerator != "cuda":
        notes.append(f'optim: "{optim}" does not page on {machine.accelerator}; otherwise it is the same')
    if recipe.peft.capabilities.is_sensitive and recipe.training.learning_rate is None:
        notes.append(f"{recipe.peft.method}: {recipe.peft.advice}")
    return notes


_MOST_EXPERTS = 0.5
"""Share of the parameters in experts from which quantisation saves little."""


def expert_notes(recipe: Recipe, facts: BaseFacts | None) -> list[str]:
    """Say that quantisation leaves the experts of a mixture model as they are, if they are most of it."""
    if facts is None or recipe.quantization.bits is None:
        return []
    weights = weights_of(facts, recipe.task_type)
    share = sum(weight.size for weight in weights if weight.kind == "expert") / max(1, parameter_count(weights))
    if share < _MOST_EXPERTS:
        return []
    what = f"{recipe.quantization.method} does not quantise the experts of this base, {share:.0%} of its parameters"
    return [f"quantization: {what}, because each layer stores them as one tensor"]


def end_notes(recipe: Recipe) -> list[str]:
    """Say what can end the run before its last step, and which weights it ends with."""
    training, notes, metric = recipe.training, list[str](), best_metric(recipe)
    if patience := training.early_stopping_patience:
        evaluations = "1 evaluation" if patience == 1 else f"{patience} evaluations"
        threshold = training.early_stopping_threshold
        more = f" and by more than {threshold:g}" if threshold else ""
        what = f"`eval_{metric}` does not improve beyond its noise{more}"
        notes.append(f"early stopping: after {evaluations} in which {what}")
    if (limit := training.max_seconds) is not None:
        what = f"training ends within {limit:,} s of its start, with a checkpoint and the adapter"
        notes.append(f"time limit: {what}; the learning rate schedule is that of all steps")
    if metric is not None:
        ends = "the run ends with it" if training.load_best_model_at_end else "`--checkpoint best` uses it"
        better = "highest" if is_higher_better(recipe, metric) else "lowest"
        notes.append(f"best: the adapter with the {better} `eval_{metric}` is kept in `best`; {ends}")
    if training.full_determinism:
        notes.append("full_determinism: only deterministic algorithms, which are slower")
    return notes


def teacher_notes(teacher: TeacherSize | None, dtype: str) -> list[str]:
    """Name the teacher of a run, and the memory that it takes."""
    if teacher is None:
        return []
    size, taken = teacher.parameters, teacher_bytes(teacher.parameters, dtype) / 1e9
    shown = f"{size / 1e9:,.1f} billion" if size >= 1e8 else f"{size / 1e6:,.1f} million"
    return [f"teacher: {teacher.name}, {shown} parameters, {taken:,.2f} GB of the memory"]


def _repeated(rows: int | None, at_once: int) -> list[str]:
    """Note rows that are repeated so that every process gets the same number."""
    more = -(rows or 0) % at_once
    if not more:
        return []
    return [f"an epoch of {rows:,} rows repeats the first {more}, so that every process gets the same number"]
