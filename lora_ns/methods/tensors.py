"""The tensors of an adapter, from the layers that it adapts: what a method answers about its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lora_ns.methods.base import Divisor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A module that a method adapts."""

    name: str
    inputs: int
    outputs: int
    has_bias: bool = False
    kind: Literal["linear", "embedding", "norm", "experts"] = "linear"
    """`experts` is a stack of matrices in one parameter."""
    count: int = 1
    """Number of matrices in the stack."""
    target: str = ""
    """The name, or end of names, in the configuration that selects it."""


@dataclass(frozen=True)
class Adapted:
    """The layers that a method adapts, and the sizes of the base that virtual tokens depend on."""

    layers: Sequence[Layer]
    family: str = ""
    """`model_type` of the base."""
    num_hidden_layers: int = 0
    embedding_width: int = 0
    """Width of the input embeddings."""
    cache_width: int = 0
    """Width of the keys of all heads at one position."""

    def sides(self, which: Literal["input", "output", "both"]) -> set[int]:
        """Return the sizes of the layers on some sides."""
        inputs, outputs = ({getattr(layer, side) for layer in self.layers} for side in ("inputs", "outputs"))
        return {"input": inputs, "output": outputs, "both": inputs | outputs}[which]


def count(shapes: Iterable[Shape]) -> int:
    """Return the number of entries of all shapes."""
    return sum(math.prod(shape) for shape in shapes)


def two_factors(layer: Layer, rank: int) -> list[Shape]:
    """Return the shapes of two factors of a layer's update."""
    return [(rank * layer.count, layer.inputs), (layer.outputs, rank * layer.count)]


def fitting_divisor(sides: Iterable[int], divisor: Divisor, value: int | None) -> int | None:
    """Return a number that divides all sizes: the given one, or the largest possible.

    Args:
        sides: the sizes.
        divisor: the key that sets it, with the largest value to choose.
        value: the given number; None to choose one.

    Returns:
        None if the given one does not divide them, or none above 1 does.
    """
    known = divisors_of(sides, divisor)
    if value is not None:
        return value if value in known else None
    largest = max((size for size in known if size <= divisor.most), default=0)
    return largest if largest > 1 else None


def divisors_of(sides: Iterable[int], divisor: Divisor) -> list[int]:
    """Return the allowed numbers that divide all sizes."""
    common = math.gcd(*sides)
    return [size for size in range(1, common + 1) if common % size == 0 and not (divisor.even and size % 2)]


def balanced_factors(size: int, wanted: int = -1) -> tuple[int, int]:
    """Return the two factors of a size that LoKr uses: one close to `wanted`, or both close to its root for -1."""
    if wanted > 0 and size % wanted == 0:
        return wanted, size // wanted
    most = size if wanted == -1 else wanted
    small = max(
        (number for number in range(1, math.isqrt(size) + 1) if size % number == 0 and number <= most), default=1
    )
    return small, size // small
