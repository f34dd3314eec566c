"""Speed, duration, energy and disk of a run, as far as they follow from sizes and the GPU.

A model of operations, not a measurement: each token passes every matrix once forward (2 operations an entry) and once
backward for the gradient of its input; weights that are trained cost a third product, checkpointing the forward pass
again. A GPU is assumed to reach a fixed fraction of the rate in its data sheet, which takes large batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lora_ns.architectures.weights import Weight
from lora_ns.machine.gpus import GpuModel, gpu_model
from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.exact import recipe_adapter
from lora_ns.plan.memory.weights import weights_of
from lora_ns.plan.plan import Derived, computed
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.recipe.recipe import Recipe

REACHED, REACHED_PACKED = 0.4, 0.3
"""Assumed fraction of a GPU's dense rate: with plain weights, and with quantised ones, which are unpacked each time."""


_FIRST_BFLOAT16 = (8, 0)
"""Compute capability from which float32 products use TensorFloat-32, at half the rate of bfloat16."""


_RUN_FILES = 20_000_000
"""Tokenizer, manifest, metrics and logs of a run."""


@dataclass(frozen=True)
class Speed:
    """How fast a run is expected to be, and what it takes; None where nothing is known."""

    tokens_per_second: Derived[int | None]
    duration_seconds: Derived[int | None]
    energy_wh: Derived[int | None]
    disk_bytes: Derived[int | None]


def planned_speed(
    recipe: Recipe,
    machine: Machine,
    facts: BaseFacts | None,
    *,
    world: int,
    checkpointing: bool,
    length: int,
    rows: int | None,
    dtype: str,
) -> Speed:
    """Return the expected speed of a run.

    Args:
        recipe: the recipe, settled on its base.
        machine: the machine, or the one that is planned for.
        facts: what is known about the base.
        world: number of processes.
        checkpointing: True if activations are recomputed.
        length: tokens of a row, at most.
        rows: rows of all steps together; None if unknown.
        dtype: dtype of the computation, by its torch name.
    """
    disk = planned_disk(recipe, facts)
    model = gpu_model(machine.gpus[0].name) if machine.gpus else None
    if model is None or facts is None or not facts.hidden_size:
        why = _why_unknown(machine, facts)
        return Speed(computed(None, why), computed(None, why), computed(None, why), disk)
    operations = operations_per_token(recipe, facts, length, checkpointing)
    fraction = REACHED if recipe.quantization.bits is None else REACHED_PACKED
    rate = max(1, round(world * fraction * _dense_rate(model, dtype) / operations))
    assumed = f"{fraction:.0%} of the {_dense_rate(model, dtype) / 1e12:,.0f} TFLOP/s of {model.name}"
    speed: Derived[int | None] = computed(rate, f"assumes {assumed}; small batches are slower")
    if rows is None:
        why = "known once the training rows are counted"
        return Speed(speed, computed(None, why), computed(None, why), disk)
    seconds = math.ceil(rows * length * recipe.objective.forward_passes / rate)
    return Speed(
        speed,
        computed(seconds, f"{rows:,} rows of at most {length:,} tokens, without evaluation and start"),
        computed(math.ceil(seconds * world * model.watts / 3600), f"at {model.watts:,} W for each GPU"),
        disk,
    )


def _why_unknown(machine: Machine, facts: BaseFacts | None) -> str:
    if facts is None:
        return "known once the base is on this machine"
    if machine.gpus:
        return f"the rate of {machine.gpus[0].name} is not known"
    return "known after a run on this machine"


def _dense_rate(model: GpuModel, dtype: str) -> float:
    """Return the operations per second of a GPU's matrix units in a dtype."""
    rate = model.teraflops * 1e12
    if dtype != "float32":
        return rate
    return rate / 2 if model.capability >= _FIRST_BFLOAT16 else rate / 8


def operations_per_token(recipe: Recipe, facts: BaseFacts, length: int, checkpointing: bool) -> int:
    """Return the floating-point operations of a training step for each token.

    Args:
        recipe: the recipe.
        facts: what is known about the base.
        length: tokens of a row; attention grows with it.
        checkpointing: True if activations are recomputed.
    """
    used = sum(_used_entries(weight, facts) for weight in weights_of(facts, recipe.task_type))
    size = recipe_adapter(recipe, facts)
    adapter = size.parameters if size else 0
    pairs = length / 2 if recipe.task_type == "CAUSAL_LM" else length  # causal: half of all pairs
    attention = round(4 * pairs) * facts.num_hidden_layers * facts.hidden_size  # scores, and sums of values
    passes = 3 if checkpointing else 2
    return passes * 2 * (used + adapter) + 2 * adapter + (passes + 1) * attention


def _used_entries(weight: Weight, facts: BaseFacts) -> int:
    """Return the entries of a weight that each token is multiplied with."""
    if weight.kind == "expert":
        return weight.size * _experts_per_token(facts) // max(1, weight.shape[0])
    if weight.kind in {"linear", "router", "head"} and ".vision_tower." not in f".{weight.name}":
        return weight.size
    return 0


def _experts_per_token(facts: BaseFacts) -> int:
    found = facts.settings.get("num_experts_per_tok") or facts.settings.get("experts_per_token")
    return found if isinstance(found, int) and found > 0 else 2


def planned_disk(recipe: Recipe, facts: BaseFacts | None) -> Derived[int | None]:
    """Return the bytes that a run writes: its adapter, and checkpoints with the optimizer's state."""
    size = recipe_adapter(recipe, facts) if facts else None
    if size is None:
        return computed(None, "known once the base is on this machine" if facts is None else "")
    adapter = 4 * size.parameters
    checkpoints = recipe.training.save_total_limit
    each = adapter + OPTIMIZERS[recipe.training.optim].state_bytes(size.trained)
    total = adapter + checkpoints * each + _RUN_FILES
    shown = f"{checkpoints} checkpoint{'s' * (checkpoints > 1)} of {each / 1e6:,.1f} MB"
    return computed(total, f"the adapter and {shown}, without cached rows")
