"""Estimate of the memory that a training step needs: a sum of named terms, from sizes alone.

Weights, adapter, gradients and optimizer come from `lora_ns.plan.memory.exact`, activations from what each layer was
counted to keep (`lora_ns.plan.memory.activations`), and the rest from `lora_ns.plan.memory.allocator`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.methods import PeftMethod
from lora_ns.methods.base import Shapes, StartMemory
from lora_ns.model.files import BaseFacts
from lora_ns.plan.memory.activations import Step, kept_bytes
from lora_ns.plan.memory.allocator import LIBRARIES_ON_CPU, LIBRARIES_ON_GPU, PACKED, held_bytes
from lora_ns.plan.memory.exact import ExactTerms
from lora_ns.plan.memory.weights import BYTES

POSITIONS_AT_ONCE = 1024
"""The most positions that the loss projects onto the vocabulary at once."""

_LOGITS_AT_ONCE = 12 * 2**20
"""Logits of a product on a CPU: with more, it is not faster."""

_LOGITS_IN_CACHE = 3 * 2**18
"""Logits whose copies in float32 a CPU still has in its cache when it comes to the next operator."""


def positions_at_once(vocabulary: int, on_cpu: bool) -> int:
    """Return how many positions the loss projects onto the vocabulary at once."""
    if not on_cpu:
        return POSITIONS_AT_ONCE
    return min(POSITIONS_AT_ONCE, max(POSITIONS_AT_ONCE // 8, _LOGITS_AT_ONCE // vocabulary))


def normalised_at_once(vocabulary: int, on_cpu: bool) -> int:
    """Return how many positions the loss normalises at once, of those it has projected."""
    if not on_cpu:
        return POSITIONS_AT_ONCE
    return min(POSITIONS_AT_ONCE, max(1, _LOGITS_IN_CACHE // vocabulary))


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by purpose."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    """What the forward pass keeps for the backward pass."""
    logits: int
    """Logits over the vocabulary, with what the loss computes from them."""
    transient: int = 0
    """Temporary tensors of a step, and gaps that the allocator cannot fill."""
    start: int = 0
    """Memory for computing the initialisation before the first step, as far as it exceeds that of a step."""
    teacher: int = 0
    """Weights of a teacher."""
    runtime: int = LIBRARIES_ON_CPU
    """The libraries themselves; on a GPU, its context."""
    mapped: int = 0
    """Weight files that stay mapped. The system takes their memory back when it needs it, so `total` leaves it out."""

    @property
    def total(self) -> int:
        """Sum of all terms but `mapped`."""
        step = self.weights + self.adapter + self.gradients + self.optimizer + self.activations + self.logits
        return step + self.transient + self.runtime + self.start + self.teacher


@dataclass(frozen=True)
class Scoring:
    """How the loss computes logits."""

    tokens: int
    """Positions whose next token is predicted."""
    at_once: int | None = None
    """Positions whose logits are in memory together; None for all."""
    normalised: int = POSITIONS_AT_ONCE
    """Positions of these that have two copies of their logits in float32."""
    is_recomputed: bool = False
    """True if autograd computes the gradient of each part, as for a head with trainable token rows."""

    def packed_each(self, facts: BaseFacts, dtype: str) -> int:
        """Return the bytes of a copy of the vocabulary projection; 0 if no position is scored."""
        return facts.vocab_size * facts.hidden_size * BYTES[dtype] if self.tokens else 0

    def size(self, facts: BaseFacts, dtype: str) -> int:
        """Return the bytes of logits, probabilities and the gradient of hidden states."""
        item, together = BYTES[dtype], min(self.tokens, self.at_once or self.tokens)
        if self.at_once is None:
            return together * facts.vocab_size * (item + 4)
        if self.is_recomputed:  # what autograd makes of the logits, and what the last part left
            numbers = together * (18 if self.tokens > self.at_once else 16)
        else:
            numbers = together * item + min(together, self.normalised) * 8
        return numbers * facts.vocab_size + self.tokens * facts.hidden_size * item


def estimate(
    facts: BaseFacts,
    *,
    exact: ExactTerms,
    peft: PeftMethod,
    start: StartMemory,
    step: Step,
    checkpointing: bool,
    scoring: Scoring,
    on_cpu: bool,
    mapped: int = 0,
    teacher_parameters: int = 0,
) -> MemoryEstimate:
    """Estimate the peak memory of one step.

    Args:
        facts: sizes of the base.
        exact: weights, adapter, gradients and optimizer.
        peft: the recipe's `[peft]`.
        start: memory of the adapter's initialisation.
        step: rows and positions of a forward pass, padding included.
        checkpointing: True if activations are recomputed.
        scoring: positions whose next token is predicted.
        on_cpu: True if training runs on the CPU.
        mapped: bytes of weight files that stay mapped beside the weights made of them.
        teacher_parameters: parameters of a second model, which is loaded in the same dtype.
    """
    kept, layer = kept_bytes(facts, peft, step, checkpointing)
    activations = kept.total + (layer.total if checkpointing else 0)
    in_half = BYTES[step.dtype] == 2
    forward, backward = held_bytes(kept, layer, facts.num_hidden_layers, checkpointing, on_cpu, in_half)
    # The logits are gone when the backward pass of the layers begins, which needs its own memory only then.
    packed = PACKED * scoring.packed_each(facts, step.dtype) if on_cpu else 0
    peak = packed + max(forward + scoring.size(facts, step.dtype), backward)
    logits = min(scoring.size(facts, step.dtype), peak - activations)
    transient = peak - activations - logits
    replaced = exact.gradients + exact.optimizer + (0 if start.has_backward_pass else activations + logits)
    return MemoryEstimate(
        weights=exact.weights,
        adapter=exact.adapter,
        gradients=exact.gradients,
        optimizer=exact.optimizer,
        activations=activations,
        logits=logits,
        transient=transient,
        start=max(0, start.size - replaced),
        teacher=teacher_bytes(teacher_parameters, step.dtype),
        runtime=LIBRARIES_ON_CPU if on_cpu else LIBRARIES_ON_GPU,
        mapped=mapped,
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
