"""Estimate of the memory that a training step needs: a sum of named terms, from sizes alone.

Weights, adapter, gradients and optimizer come from `lora_ns.plan.memory.exact`. The activations are a model of the
tensors that PyTorch stores for the backward pass, accurate to about a factor of 1.5 on a CPU. On a GPU, whose attention
stores less, the whole estimate was 2.1 to 2.7 times the memory used.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.methods import PeftMethod
from lora_ns.methods.base import Shapes, StartMemory
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.exact import ExactTerms
from lora_ns.plan.memory.weights import BYTES

_RUNTIME_BYTES = 1_000_000_000
"""Memory of the libraries themselves, and reserve of the allocator."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by purpose."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    start: int = 0
    """Memory for computing the initialisation before the first step, as far as it exceeds that of a step."""
    teacher: int = 0
    """Weights of a teacher."""
    runtime: int = _RUNTIME_BYTES

    @property
    def total(self) -> int:
        """Sum of all terms."""
        step = self.weights + self.adapter + self.gradients + self.optimizer + self.activations + self.logits
        return step + self.runtime + self.start + self.teacher


def estimate(
    facts: BaseFacts,
    *,
    exact: ExactTerms,
    dtype: str,
    start: StartMemory,
    tokens: int,
    checkpointing: bool,
    scored_tokens: int,
    teacher_parameters: int = 0,
) -> MemoryEstimate:
    """Estimate the peak memory of one step.

    Args:
        facts: sizes of the base.
        exact: weights, adapter, gradients and optimizer.
        dtype: dtype of the computation, by its torch name.
        start: memory of the adapter's initialisation.
        tokens: positions in one forward pass, padding included.
        checkpointing: True if activations are recomputed.
        scored_tokens: positions whose next token is predicted.
        teacher_parameters: parameters of a second model, which is loaded in the same dtype.
    """
    size = BYTES[dtype]
    layer = size * (18 * facts.hidden_size + 8 * facts.intermediate_size) * 3 // 2
    kept = (
        facts.num_hidden_layers * facts.hidden_size * size + layer if checkpointing else facts.num_hidden_layers * layer
    )
    activations, logits = tokens * kept, scored_tokens * facts.vocab_size * (size + 4)
    replaced = exact.gradients + exact.optimizer + (0 if start.has_backward_pass else activations + logits)
    return MemoryEstimate(
        weights=exact.weights,
        adapter=exact.adapter,
        gradients=exact.gradients,
        optimizer=exact.optimizer,
        activations=activations,
        logits=logits,
        start=max(0, start.size - replaced),
        teacher=teacher_bytes(teacher_parameters, dtype),
    )


def teacher_bytes(parameters: int, dtype: str) -> int:
    """Return the memory of a teacher's weights; one that is quantised takes less."""
    return parameters * BYTES[dtype]


def start_memory(method: PeftMethod, shapes: Shapes, dtype: str, on_cpu: bool) -> StartMemory:
    """Return the memory that PEFT needs to compute an initialisation.

    Args:
        method: the recipe's `[peft]`.
        shapes: rows and columns of the adapted weights.
        dtype: their dtype, by its torch name.
        on_cpu: True if training runs on the CPU, where tensors that PEFT moves to the host stay in the same memory.
    """
    return method.start_memory(shapes, BYTES[dtype], on_cpu)
