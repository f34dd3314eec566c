"""Sizes and dtypes of a plan."""

from __future__ import annotations

from lora_ns.machine.hardware import Machine
from lora_ns.methods import PeftMethod
from lora_ns.model.files import BaseFacts
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
    """Return the number of adapter parameters from the shapes in the weight files, None if unknown."""
    peft = recipe.peft
    if facts is None or not facts.hidden_size:
        return None
    return peft.count_parameters(adapted_shapes(peft, facts), facts.hidden_size, facts.num_hidden_layers)


def adapted_shapes(peft: PeftMethod, facts: BaseFacts) -> list[tuple[int, int]]:
    """Return the shapes of the weights that the adapter adapts."""
    targets = peft.targets
    return [
        shape
        for name, shape in facts.matrices.items()
        if (not _is_input_or_output(name) if isinstance(targets, str) else _ends_with_one(name, targets))
    ]


def _is_input_or_output(name: str) -> bool:
    return any(
        part in name for part in ("embed", "lm_head", "wte", "wpe", "classifier", "score", "pooler", "predictions")
    )


def _ends_with_one(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)
