"""How much memory a training step needs: a sum of named terms, from sizes alone.

The terms for weights, adapter and optimizer are exact up to the count of the adapter's parameters. The activations are
a model of what PyTorch keeps for the backward pass, good to about a factor of 1.5 either way on a CPU; on a GPU, whose
attention keeps less, the whole came to 2.1 to 2.7 times what was taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.methods import PeftMethod
from lora_ns.methods.base import Shapes, StartMemory
from lora_ns.model.files import BaseFacts

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


_RUNTIME_BYTES = 1_000_000_000
"""The libraries themselves, and what the allocator holds back."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by what takes them."""

    weights: int
    adapter: int
    optimizer: int
    activations: int
    logits: int
    start: int = 0
    """What computing the start takes beyond all that a step does, which it comes before."""
    runtime: int = _RUNTIME_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        step = self.weights + self.adapter + self.optimizer + self.activations + self.logits + self.runtime
        return step + self.start


def estimate(
    facts: BaseFacts,
    *,
    dtype: str,
    bits: int | None,
    adapter_parameters: int,
    state: float,
    start: StartMemory,
    tokens: int,
    checkpointing: bool,
    scored_tokens: int,
) -> MemoryEstimate:
    """The peak of one step.

    Args:
        facts: sizes of the base.
        dtype: type of the computation, by its torch name.
        bits: 4 or 8 for a quantised base.
        adapter_parameters: parameters that are trained.
        state: bytes that the optimizer keeps for each of them, beside a gradient in float32.
        start: what the adapter's start is computed from.
        tokens: positions that go through the model at once, padding included.
        checkpointing: whether activations are recomputed.
        scored_tokens: positions whose next token is predicted.
    """
    size = _BYTES[dtype]
    embeddings = 2 * facts.vocab_size * facts.hidden_size
    quantised = max(0, facts.parameters - embeddings)
    weights = facts.parameters * size if bits is None else (facts.parameters - quantised) * size + quantised * bits // 8
    layer = size * (18 * facts.hidden_size + 8 * facts.intermediate_size) * 3 // 2
    kept = (
        facts.num_hidden_layers * facts.hidden_size * size + layer if checkpointing else facts.num_hidden_layers * layer
    )
    optimizer = round(adapter_parameters * (4 + state))
    activations, logits = tokens * kept, scored_tokens * facts.vocab_size * (size + 4)
    replaced = optimizer + (0 if start.has_backward_pass else activations + logits)
    return MemoryEstimate(
        weights=weights,
        adapter=adapter_parameters * 4,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        start=max(0, start.size - replaced),
    )


def start_memory(method: PeftMethod, shapes: Shapes, dtype: str, on_cpu: bool) -> StartMemory:
    """What PEFT holds while it computes a start.

    Args:
        method: the recipe's `[peft]`.
        shapes: rows and columns of the weights that are adapted.
        dtype: their type, by its torch name.
        on_cpu: whether what PEFT moves to the host's memory stays in the same one.
    """
    return method.start_memory(shapes, _BYTES[dtype], on_cpu)
