"""What a process takes besides the tensors it needs: libraries, transient tensors, and memory that an allocator holds.

The C library of Linux keeps most tensors of a step in its heap. PyTorch asks it for aligned memory, and a gap that a
tensor leaves is too small for the next tensor of the same size, because the C library looks for room to align it. So the
gaps of a forward pass stay empty. Tensors above 32 MB have a mapping of their own, which leaves no gap.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.plan.memory.activations import Kept

LIBRARIES_ON_CPU = 660_000_000
"""Resident memory of a process that has imported torch, transformers, PEFT and TRL with their optional packages."""

LIBRARIES_ON_GPU = 600_000_000
"""CUDA context with its kernels, and the workspaces of cuBLAS."""

LIVE_GRADIENTS = 0.35
"""Gradients of activations in a backward pass, in units of what a layer keeps; from traces of allocations."""

_CACHED_ON_GPU = 0.05
"""Part of the activations that CUDA's caching allocator takes in addition, for rounding and gaps."""


@dataclass(frozen=True)
class Heap:
    """Memory that the C library's heap takes in a step, in units of what the tensors in it take."""

    each: float
    """For what is kept until the backward pass."""
    layer: float
    """For what one layer keeps: the temporary tensors of forward and backward pass."""


HEAP = Heap(1.6, 2.4)
"""Without gradient checkpointing."""

HEAP_RECOMPUTING = Heap(1.0, 5.0)
"""With gradient checkpointing, where a layer is computed again among the inputs of all others."""


def held_bytes(kept: Kept, layer: Kept, checkpointing: bool, on_cpu: bool) -> int:
    """Return what an allocator holds for the activations of a step at its peak.

    Args:
        kept: what all layers keep until the backward pass.
        layer: what one layer keeps while it is computed.
        checkpointing: True if activations are recomputed.
        on_cpu: True if the C library allocates, rather than CUDA's caching allocator.
    """
    live = kept.total + round(LIVE_GRADIENTS * layer.total) + (layer.total if checkpointing else 0)
    if not on_cpu:
        return live + round(_CACHED_ON_GPU * live)
    heap = HEAP_RECOMPUTING if checkpointing else HEAP
    large = kept.large + round((LIVE_GRADIENTS + checkpointing) * layer.large)
    return round(heap.each * kept.small + heap.layer * layer.small) + large
