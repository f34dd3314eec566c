"""Norms and angles of the updates scale * B @ A, from factors alone: the product itself is never formed.

With B = Q_b R_b and A^T = Q_a R_a, the product R_b R_a^T is as small as the rank and has the norm of B @ A. Unlike Gram
matrices, whose differences of squares lose half of the digits, this is exact to rounding for the difference of two
updates, too: their factors side by side are factors of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.readers.adapter import Adapter, Layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[Any]


@dataclass(frozen=True)
class Factors:
    """The factors of a layer's update: one pair, or one for each expert."""

    pairs: tuple[tuple[Matrix, Matrix], ...]
    """Pairs of B, scaled, of shape (outputs, rank), and A of shape (rank, inputs)."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Shapes of the products."""
        return tuple((b.shape[0], a.shape[1]) for b, a in self.pairs)

    def norm(self) -> float:
        """Frobenius norm of the update."""
        return math.sqrt(sum(_norm(b, a) ** 2 for b, a in self.pairs))

    def minus(self, other: Factors) -> Factors:
        """Factors of the difference of two updates of the same shape."""
        import numpy as np

        both = zip(self.pairs, other.pairs, strict=True)
        return Factors(tuple((np.hstack([b, -d]), np.vstack([a, c])) for (b, a), (d, c) in both))

    def product(self, other: Factors) -> float:
        """Inner product with another update of the same shape."""
        import numpy as np

        both = zip(self.pairs, other.pairs, strict=True)
        with np.errstate(all="ignore"):
            return sum(float(((b.T @ d) * (a @ c.T)).sum()) for (b, a), (d, c) in both)

    def equals(self, other: Factors) -> bool:
        """True if the factors themselves are the same."""
        import numpy as np

        if len(self.pairs) != len(other.pairs):
            return False
        both = zip(self.pairs, other.pairs, strict=True)
        return all(np.array_equal(b, d) and np.array_equal(a, c) for (b, a), (d, c) in both)


def factors_of(adapter: Adapter, layer: Layer) -> Factors:
    """Read the factors of a layer; embeddings and convolutions have matrices, too."""
    assert layer.a is not None
    assert layer.b is not None
    first, second = adapter.values(layer.a), adapter.values(layer.b)
    rank = first.shape[0]
    a, b = first.reshape(rank, -1), layer.scale * second.reshape(-1, rank)
    if layer.experts == 1:
        return Factors(((b, a),))
    # PEFT stores A as (experts x rank, inputs) and B as (outputs, rank x experts), with the expert last.
    each = rank // layer.experts
    split = b.reshape(-1, each, layer.experts)
    return Factors(
        tuple((split[:, :, expert], a[expert * each : (expert + 1) * each]) for expert in range(layer.experts))
    )


def _norm(b: Matrix, a: Matrix) -> float:
    import numpy as np

    with np.errstate(all="ignore"):  # of values that are not finite, neither is the norm
        left, right = (np.asarray(np.linalg.qr(factor, mode="r")) for factor in (b, a.T))
        return float(np.linalg.norm(left @ right.T))
