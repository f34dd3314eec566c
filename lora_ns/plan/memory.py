"""How much memory a training step needs: a sum of named terms, from sizes alone.

The terms for weights, adapter and optimizer are exact up to the count of the adapter's parameters. The activations are
a model of what PyTorch keeps for the backward pass, good to about a factor of 1.5 either way on a CPU; on a GPU, whose
attention keeps less, the whole came to 2.1 to 2.7 times what was taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_ns.methods import Lora, PeftMethod
from lora_ns.model.files import BaseFacts

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


_RUNTIME_BYTES = 1_000_000_000
"""The libraries themselves, and what the allocator holds back."""


@dataclass(frozen=True)
class StartMemory:
    """What computing the start of an adapter takes beside the weights, before there is an optimizer."""

    size: int = 0
    has_backward_pass: bool = False
    """Whether it keeps activations as a step does."""


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


def start_memory(method: PeftMethod, shapes: Sequence[tuple[int, int]], dtype: str, on_cpu: bool) -> StartMemory:
    """What PEFT holds while it computes a start of LoRA.

    Args:
        method: the recipe's `[peft]`.
        shapes: rows and columns of the weights that are adapted.
        dtype: their type, by its torch name.
        on_cpu: whether what PEFT moves to the host's memory stays in the same one.
    """
    if not isinstance(method, Lora) or not shapes:
        return StartMemory()
    largest = max(rows * columns for rows, columns in shapes)
    decomposed = 4 * 4 * largest if method.moves_base else 0  # a weight and its three parts, one layer at a time
    match method.init_lora_weights:
        case "lora_ga":  # the gradient of each weight, in its own type
            gradients = _BYTES[dtype] * sum(rows * columns for rows, columns in shapes)
            return StartMemory(gradients + decomposed, has_backward_pass=True)
        case "corda":  # what the inputs of each layer have in common, and the directions of all of them before cutting
            common = 4 * sum(columns * columns for _, columns in shapes)
            directions = 4 * sum(min(shape) * sum(shape) for shape in shapes) if on_cpu else 0
            return StartMemory(common + directions + decomposed)
        case "eva":  # the directions of each layer's inputs
            return StartMemory(round(4 * method.lora_r * method.eva_rho * sum(columns for _, columns in shapes)))
    return StartMemory(decomposed)
