"""Figures of predicted classes, with the definitions of scikit-learn, as formulas of counts per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.statistics.measures import Formula, Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_KINDS = 8
"""Number of classes up to which every pair of an expected and a predicted class is taken as a possible unseen item."""


def f1(predicted: Sequence[int], expected: Sequence[int], classes: int = 2) -> Sums:
    """The F1 score: of class 1 if there are two, as in GLUE, otherwise its mean over the classes."""
    return _of_classes(predicted, expected, classes, _binary_f1 if classes == 2 else _macro_f1, (0.0, 1.0))


def matthews(predicted: Sequence[int], expected: Sequence[int], classes: int = 2) -> Sums:
    """The Matthews correlation, for more than two classes that of Gorodkin (2004); 0 if it is undefined."""
    return _of_classes(predicted, expected, classes, _matthews, (-1.0, 1.0))


def entity_f1(found: Sequence[int], predicted: Sequence[int], expected: Sequence[int]) -> Sums:
    """The micro F1 score of entities, or of several labels per row.

    Args:
        found: number of right predictions of each row.
        predicted: number of predictions of each row.
        expected: number of expected ones of each row.
    """
    import numpy as np

    rows = np.column_stack([found, predicted, expected]).astype(np.float64)
    usual = max(1.0, float(rows[:, 2].mean())) if len(rows) else 1.0
    kinds = usual * np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    return Sums(rows, _micro_f1, (0.0, 1.0), kinds)


def _of_classes(
    predicted: Sequence[int], expected: Sequence[int], classes: int, formula: Formula, bounds: tuple[float, float]
) -> Sums:
    """Count per item: right of each class, predicted of each class, expected of each class, (items, 3 x classes)."""
    import numpy as np

    one, other = np.asarray(predicted, dtype=np.int64), np.asarray(expected, dtype=np.int64)
    if one.shape != other.shape or ((one < 0) | (one >= classes) | (other < 0) | (other >= classes)).any():
        raise ValueError(f"each item has a predicted and an expected class from 0 to {classes - 1}")
    kinds = None
    if classes <= MOST_KINDS:
        kinds = _counts(np.repeat(np.arange(classes), classes), np.tile(np.arange(classes), classes), classes)
    return Sums(_counts(one, other, classes), formula, bounds, kinds, (one == other).astype(np.float64))


def _counts(predicted: Array, expected: Array, classes: int) -> Array:
    import numpy as np

    numbers = np.arange(classes)
    is_predicted, is_expected = predicted[:, None] == numbers, expected[:, None] == numbers
    counts: Array = np.concatenate([is_predicted & is_expected, is_predicted, is_expected], axis=1).astype(np.float64)
    return counts


def _parts(sums: Array) -> tuple[Array, Array, Array]:
    """Split the sums: right, predicted and expected, each (..., classes)."""
    import numpy as np

    right, predicted, expected = np.split(sums, 3, axis=-1)
    return right, predicted, expected


def _f1_of(right: Array, predicted: Array, expected: Array) -> Array:
    import numpy as np

    both = predicted + expected
    found: Array = np.where(both > 0, 2 * right / np.where(both > 0, both, 1.0), 0.0)
    return found


def _binary_f1(sums: Array) -> Array:
    right, predicted, expected = _parts(sums)
    return _f1_of(right[..., 1], predicted[..., 1], expected[..., 1])


def _macro_f1(sums: Array) -> Any:
    return _f1_of(*_parts(sums)).mean(axis=-1)


def _micro_f1(sums: Array) -> Array:
    return _f1_of(sums[..., 0], sums[..., 1], sums[..., 2])


def _matthews(sums: Array) -> Any:
    import numpy as np

    right, predicted, expected = _parts(sums)
    count = expected.sum(axis=-1)
    shared = right.sum(axis=-1) * count - (predicted * expected).sum(axis=-1)
    spreads = [count * count - (side * side).sum(axis=-1) for side in (predicted, expected)]
    spread = np.sqrt(np.maximum(spreads[0], 0) * np.maximum(spreads[1], 0))
    return np.where(spread > 0, shared / np.where(spread > 0, spread, 1.0), 0.0)
