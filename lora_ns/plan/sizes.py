"""Sizes and dtypes of a plan."""

from __future__ import annotations

from lora_ns.machine.hardware import Machine
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.adapter import adapted_by
from lora_ns.plan.memory.exact import recipe_adapter
from lora_ns.plan.memory.weights import weights_of
from lora_ns.plan.plan import Derived, computed, written_value
from lora_ns.plan.settled import Settled
from lora_ns.recipe.recipe import Recipe

SMALL_MODEL_PARAMETERS = 20_000_000
"""Below this size, most time passes outside matrix products, and casting to bfloat16 costs more than it saves."""


def planned_dtype(settled: Settled, machine: Machine, facts: BaseFacts | None) -> Derived[str]:
    """Return the dtype of the computation, from the recipe or the best one for the device and the base."""
    if settled.recipe.model.dtype != "auto":
        return written_value(settled, "model.dtype", settled.recipe.model.dtype)
    if machine.gpus and (kernels := settled.recipe.quantization.float16_on_gpu):
        return computed("float16", f"the dtype of {kernels} on a GPU")
    if machine.gpus:
        gpu = machine.gpus[0]
        best = "bfloat16" if gpu.bf16 else "float16"
        return computed(best, f"{gpu.name} {'supports' if gpu.bf16 else 'does not support'} bfloat16")
    if machine.accelerator == "cpu" and machine.cpu_bf16:
        if facts and facts.parameters < SMALL_MODEL_PARAMETERS:
            return computed("float32", "the model is too small to gain from bfloat16")
        return computed("bfloat16", "this processor supports bfloat16 matrix products")
    return computed("float32", "no fast bfloat16 on this device")


def adapter_parameters(recipe: Recipe, facts: BaseFacts | None) -> int | None:
    """Return the number of adapter parameters from the shapes of the base, None if unknown."""
    size = recipe_adapter(recipe, facts) if facts else None
    return size.parameters if size else None


def adapted_shapes(recipe: Recipe, facts: BaseFacts) -> list[tuple[int, int]]:
    """Return the shapes of the weights that the adapter adapts."""
    adapted = adapted_by(recipe.peft, facts, weights_of(facts, recipe.task_type), recipe.task_type)
    return [(layer.outputs, layer.inputs) for layer in (adapted.layers if adapted else ())]
