"""What a process takes besides the tensors that it needs: libraries, temporary tensors, and gaps in the heap.

The C library of Linux keeps most tensors of a step in its heap. PyTorch asks for aligned memory, and the gap that a
tensor leaves is too small for the next one of its size, because the C library looks for room to align it. So most gaps
of a forward pass stay empty. Tensors above 32 MB have a mapping each, which leaves no gap. The figures were measured
with glibc 2.36 and its defaults; other allocators leave fewer gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.plan.memory.activations import Kept

LIBRARIES_ON_CPU = 660_000_000
"""Resident memory of a process that has imported torch, transformers, PEFT and TRL with their optional packages."""

LIBRARIES_ON_GPU = 600_000_000
"""CUDA context with its kernels, and the workspaces of cuBLAS."""


@dataclass(frozen=True)
class _Heap:
    """How the heap of a CPU grows."""

    gaps: float
    """Gaps after a forward pass, in units of what its layers keep."""
    gaps_recomputed: float
    """The same with checkpointing, in units of what the layers would keep without."""
    backward: float
    """What the backward pass adds, in units of what a layer keeps."""


_HEAP, _HEAP_IN_HALF = _Heap(0.65, 0.65, 2.0), _Heap(0.35, 0.25, 1.0)
"""For layers that compute in four bytes for each number, and in two, with fewer temporary tensors between them."""

PACKED = 2
"""Copies of the vocabulary projection that the matrix products of the loss make for themselves."""

GRADIENTS = 0.35
"""Gradients of activations in a backward pass, in units of what a layer keeps; from traces of allocations."""

_CACHED_ON_GPU = 1.05
"""What CUDA's caching allocator takes for the tensors of a step, with rounding."""


def held_bytes(
    kept: Kept, layer: Kept, layers: int, checkpointing: bool, on_cpu: bool, in_half: bool = False
) -> tuple[int, int]:
    """Return what an allocator holds for activations at the end of the forward pass, and in the backward pass.

    Args:
        kept: what all layers keep until the backward pass.
        layer: what one layer keeps while it is computed.
        layers: number of layers.
        checkpointing: True if activations are recomputed.
        on_cpu: True if the C library allocates, rather than CUDA's caching allocator.
        in_half: True if the layers compute in two bytes for each number.
    """
    recomputed = GRADIENTS + checkpointing
    if not on_cpu:
        forward = round(_CACHED_ON_GPU * kept.total)
        return forward, forward + round(_CACHED_ON_GPU * recomputed * layer.total)
    heap = _HEAP_IN_HALF if in_half else _HEAP
    gaps = heap.gaps_recomputed if checkpointing else heap.gaps
    forward = kept.total + round(gaps * layers * layer.small)
    return forward, forward + round(heap.backward * layer.small + recomputed * layer.large)
