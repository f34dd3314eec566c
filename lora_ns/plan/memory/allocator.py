"""What a process takes besides the tensors that it needs: libraries, temporary tensors, and gaps in the heap.

The C library of Linux keeps most tensors of a step in its heap. PyTorch asks for aligned memory, and the gap that a
tensor leaves is too small for the next one of its size, because the C library looks for room to align it. So most gaps
of a forward pass stay empty. Tensors above 32 MB have a mapping each, which leaves no gap. The figures were measured
with glibc 2.36 and its defaults; other allocators leave fewer gaps.
"""

from __future__ import annotations

from lora_ns.plan.memory.activations import Kept

LIBRARIES_ON_CPU = 660_000_000
"""Resident memory of a process that has imported torch, transformers, PEFT and TRL with their optional packages."""

LIBRARIES_ON_GPU = 600_000_000
"""CUDA context with its kernels, and the workspaces of cuBLAS."""

GAPS, GAPS_IN_HALF, GAPS_RECOMPUTED_IN_HALF = 0.65, 0.35, 0.25
"""Gaps in the heap after a forward pass, in units of what its layers keep, or would keep without recomputing."""

BACKWARD_ON_HEAP, BACKWARD_IN_HALF = 2.0, 1.0
"""What the backward pass adds to the heap, in units of what a layer keeps."""

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
        in_half: True if the layers compute in two bytes for each number, with fewer temporary tensors between them.
    """
    recomputed = GRADIENTS + checkpointing
    if not on_cpu:
        forward = round(_CACHED_ON_GPU * kept.total)
        return forward, forward + round(_CACHED_ON_GPU * recomputed * layer.total)
    gaps = (GAPS_RECOMPUTED_IN_HALF if checkpointing else GAPS_IN_HALF) if in_half else GAPS
    backward = BACKWARD_IN_HALF if in_half else BACKWARD_ON_HEAP
    forward = kept.total + round(gaps * layers * layer.small)
    return forward, forward + round(backward * layer.small + recomputed * layer.large)
