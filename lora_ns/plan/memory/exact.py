"""The terms of a run's memory that follow from shapes alone: weights, adapter, gradients and optimizer.

Exact to the byte for the families of `lora_ns.architectures`, all methods and all optimizers, apart from the rounding
of allocators. For other families the weights are those of the files.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.architectures.families import is_known
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.adapter import AdapterSize, adapter_size
from lora_ns.plan.memory.weights import BYTES, weight_bytes, weights_of, whole_modules
from lora_ns.recipe.optimizers import OPTIMIZERS
from lora_ns.recipe.recipe import Recipe

_FLOAT32 = 4


@dataclass(frozen=True)
class ExactTerms:
    """Bytes that do not depend on the rows."""

    weights: int
    """The base as it is loaded, quantised or not."""
    adapter: int
    """Trained tensors, which are in float32, and what the adapter holds beside them."""
    gradients: int
    """A gradient for each trained tensor, in float32."""
    optimizer: int
    """State of the optimizer."""


def exact_terms(recipe: Recipe, facts: BaseFacts, dtype: str) -> ExactTerms:
    """Return the terms of a run.

    Args:
        recipe: the recipe, settled on its base.
        facts: what is known about the base.
        dtype: dtype of the computation, by its torch name.
    """
    size = recipe_adapter(recipe, facts) or AdapterSize((), 0)
    trained = _FLOAT32 * size.parameters
    return ExactTerms(
        weights=base_bytes(recipe, facts, dtype),
        adapter=trained + size.frozen_bytes,
        gradients=trained,
        optimizer=OPTIMIZERS[recipe.training.optim].state_bytes(size.trained),
    )


def recipe_adapter(recipe: Recipe, facts: BaseFacts) -> AdapterSize | None:
    """Return the tensors of a recipe's adapter; None if the shapes do not tell them."""
    return adapter_size(recipe.peft, facts, recipe.task_type, len(recipe.model.add_tokens))


def base_bytes(recipe: Recipe, facts: BaseFacts, dtype: str) -> int:
    """Return the bytes of the base's weights as a run loads them."""
    if facts.shapes or is_known(facts.settings):
        weights = weights_of(facts, recipe.task_type)
        return weight_bytes(weights, dtype, recipe.quantization, whole_modules(facts, weights))
    embeddings = 2 * facts.vocab_size * facts.hidden_size  # no shapes: a rule for the part that is not quantised
    packed = max(0, facts.parameters - embeddings) if recipe.quantization.bits else 0
    return (facts.parameters - packed) * BYTES[dtype] + packed * (recipe.quantization.bits or 0) // 8
