"""Figures of predicted classes, with the definitions of scikit-learn, as formulas of counts per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.statistics.measures import Formula, Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

MOST_KINDS = 8
"""Number of classes up to which every pair of an expected and a predicted class is taken as a possible unseen item."""


def f1(predicted: Sequence[int], expected: Sequence[int], classes: int = 2) -> Sums:
    """The F1 score: of class 1 if there are two, as in GLUE, otherwise its mean over the classes."""
    return _of_classes(predicted, expected, classes, _binary(_f1_of) if classes == 2 else _macro(_f1_of), (0.0, 1.0))


def precision(predicted: Sequence[int], expected: Sequence[int], classes: int = 2) -> Sums:
    """The precision: of class 1 if there are two, otherwise its mean over the classes; 0 for one never predicted."""
    formula = _binary(_precision_of) if classes == 2 else _macro(_precision_of)
    return _of_classes(predicted, expected, classes, formula, (0.0, 1.0))


def recall(predicted: Sequence[int], expected: Sequence[int], classes: int = 2) -> Sums:
    """The recall: of class 1 if there are two, otherwise its mean over the classes; 0 for one never expected."""
    formula = _binary(_recall_of) if classes == 2 else _macro(_recall_of)
    return _of_classes(predicted, expected, classes, formula, (0.0, 1.0))


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
    return _of_entities(found, predicted, expected, _f1_of)


def entity_precision(found: Sequence[int], predicted: Sequence[int], expected: Sequence[int]) -> Sums:
    """The share of predicted entities that are right, from the counts of `entity_f1`; 0 if none is predicted."""
    return _of_entities(found, predicted, expected, _precision_of)


def entity_recall(found: Sequence[int], predicted: Sequence[int], expected: Sequence[int]) -> Sums:
    """The share of expected entities that are found, from the counts of `entity_f1`; 0 if none is expected."""
    return _of_entities(found, predicted, expected, _recall_of)


def macro_f1(
    found: Sequence[Sequence[int]],
    predicted: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    *,
    counts_absent: bool,
) -> Sums:
    """The mean F1 score of classes of which a row has several, such as labels or the tags of words.

    Args:
        found: for each row, the number of right predictions of each class.
        predicted: for each row, the number of predictions of each class.
        expected: for each row, the number of expected ones of each class.
        counts_absent: True if the F1 score of a class that is neither predicted nor expected in any row is 0, False if
            such a class is left out.
    """
    import numpy as np

    rows = np.concatenate([np.asarray(side, dtype=np.float64) for side in (found, predicted, expected)], axis=1)
    return Sums(rows, _macro(_f1_of) if counts_absent else _macro_f1_of_present, (0.0, 1.0))


def _of_entities(
    found: Sequence[int], predicted: Sequence[int], expected: Sequence[int], score: Callable[..., Array]
) -> Sums:
    import numpy as np

    rows = np.column_stack([found, predicted, expected]).astype(np.float64)
    usual = max(1.0, float(rows[:, 2].mean())) if len(rows) else 1.0
    kinds = usual * np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    return Sums(rows, lambda sums: score(sums[..., 0], sums[..., 1], sums[..., 2]), (0.0, 1.0), kinds)


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


def _over(counts: Array, whole: Array) -> Array:
    """Divide counts; 0 where there is nothing to divide by."""
    import numpy as np

    found: Array = np.where(whole > 0, counts / np.where(whole > 0, whole, 1.0), 0.0)
    return found


def _f1_of(right: Array, predicted: Array, expected: Array) -> Array:
    return _over(2 * right, predicted + expected)


def _precision_of(right: Array, predicted: Array, _expected: Array) -> Array:
    return _over(right, predicted)


def _recall_of(right: Array, _predicted: Array, expected: Array) -> Array:
    return _over(right, expected)


def _binary(score: Callable[..., Array]) -> Formula:
    """The score of class 1."""
    return lambda sums: score(*(side[..., 1] for side in _parts(sums)))


def _macro(score: Callable[..., Array]) -> Formula:
    """The mean score of the classes."""
    return lambda sums: score(*_parts(sums)).mean(axis=-1)


def _macro_f1_of_present(sums: Array) -> Array:
    right, predicted, expected = _parts(sums)
    is_present = predicted + expected > 0
    return _over((_f1_of(right, predicted, expected) * is_present).sum(axis=-1), is_present.sum(axis=-1))


def _matthews(sums: Array) -> Any:
    import numpy as np

    right, predicted, expected = _parts(sums)
    count = expected.sum(axis=-1)
    shared = right.sum(axis=-1) * count - (predicted * expected).sum(axis=-1)
    spreads = [count * count - (side * side).sum(axis=-1) for side in (predicted, expected)]
    spread = np.sqrt(np.maximum(spreads[0], 0) * np.maximum(spreads[1], 0))
    return np.where(spread > 0, shared / np.where(spread > 0, spread, 1.0), 0.0)
