"""Where a run with labels is wrong: its confusion matrix, the figures of each class, and its calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.statistics.interval import wilson

BINS = 10
"""Bins of equal width between a confidence of 0 and 1."""


MOST_CLASSES = 30
"""Classes up to which a confusion matrix is readable."""


@dataclass(frozen=True)
class ClassFigures:
    """How well one class or label is found."""

    name: str
    rows: int
    """Rows that have it."""
    predicted: int
    """Rows for which it is predicted."""
    right: int

    @property
    def precision(self) -> float | None:
        """Share of its predictions that are right; None without any."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of its rows that are found; None without any."""
        return self.right / self.rows if self.rows else None

    @property
    def recall_interval(self) -> tuple[float, float]:
        """The 95 % interval of the recall (Wilson)."""
        found = wilson(self.recall or 0.0, self.rows)
        return found.low, found.high

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None if the class is neither there nor predicted."""
        whole = self.rows + self.predicted
        return 2 * self.right / whole if whole else None


@dataclass(frozen=True)
class ConfidenceBin:
    """Rows whose predicted class has a probability in one bin."""

    rows: int
    confidence: float
    """Mean probability."""
    right: float
    """Share that is right."""

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share (Wilson)."""
        found = wilson(self.right, self.rows)
        return found.low, found.high


@dataclass(frozen=True)
class Predictions:
    """The predictions of a run on its evaluation rows."""

    kind: str
    """Problem type, by transformers' name."""
    step: int
    rows: int
    """Evaluation rows; the lists may hold fewer."""
    labels: tuple[str, ...]
    expected: tuple[Any, ...]
    predicted: tuple[Any, ...]
    confidence: tuple[float, ...] = ()

    @classmethod
    def of(cls, table: Any) -> Predictions | None:
        """Read the table of `predictions.json`; None if it is damaged."""
        try:
            made = cls(
                str(table["kind"]),
                int(table["step"]),
                int(table["rows"]),
                tuple(map(str, table["labels"])),
                tuple(table["expected"]),
                tuple(table["predicted"]),
                tuple(map(float, table.get("confidence", ()))),
            )
            return made if made._is_whole() else None
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def _is_whole(self) -> bool:
        count, classes = len(self.expected), len(self.labels)
        if not count or len(self.predicted) != count or len(self.confidence) not in {0, count}:
            return False
        both = (*self.expected, *self.predicted)
        if self.kind == "regression":
            return all(_is_number(one) for one in both)
        if self.kind == "multi_label_classification":
            return all(isinstance(one, list) and len(one) == classes for one in both)
        return all(isinstance(one, int) and 0 <= one < classes for one in both)

    @property
    def confusion(self) -> list[list[int]]:
        """Counts of rows by expected and predicted class; empty for other kinds."""
        if self.kind != "single_label_classification":
            return []
        counts = [[0] * len(self.labels) for _ in self.labels]
        for expected, predicted in zip(self.expected, self.predicted, strict=True):
            counts[expected][predicted] += 1
        return counts

    @property
    def classes(self) -> list[ClassFigures]:
        """The figures of each class or label; empty for scores."""
        if self.kind == "regression":
            return []
        if self.kind == "multi_label_classification":
            return [self._label(place) for place in range(len(self.labels))]
        counts = self.confusion
        return [
            ClassFigures(name, sum(counts[place]), sum(row[place] for row in counts), counts[place][place])
            for place, name in enumerate(self.labels)
        ]

    def _label(self, place: int) -> ClassFigures:
        pairs = [
            (bool(one[place]), bool(other[place])) for one, other in zip(self.expected, self.predicted, strict=True)
        ]
        has, found = (sum(pair[side] for pair in pairs) for side in (0, 1))
        return ClassFigures(self.labels[place], has, found, sum(one and other for one, other in pairs))

    @property
    def answers(self) -> list[tuple[str, str]]:
        """Expected and predicted class of each row; empty for other kinds."""
        if self.kind != "single_label_classification":
            return []
        pairs = zip(self.expected, self.predicted, strict=True)
        return [(self.labels[expected], self.labels[predicted]) for expected, predicted in pairs]

    @property
    def bins(self) -> list[ConfidenceBin]:
        """Rows by the probability of the predicted class, without empty bins."""
        groups: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
        for confidence, expected, predicted in zip(self.confidence, self.expected, self.predicted, strict=False):
            groups[max(0, min(BINS - 1, int(confidence * BINS)))].append((confidence, expected == predicted))
        return [
            ConfidenceBin(
                len(group), sum(one for one, _ in group) / len(group), sum(right for _, right in group) / len(group)
            )
            for group in groups
            if group
        ]

    @property
    def calibration_error(self) -> float | None:
        """Mean distance of confidence and share of right rows over the bins, weighted by rows (Guo 2017)."""
        bins = self.bins
        whole = sum(one.rows for one in bins)
        return sum(one.rows * abs(one.confidence - one.right) for one in bins) / whole if whole else None

    @property
    def mean_error(self) -> float | None:
        """Root mean square error of scores; None for other kinds."""
        if self.kind != "regression":
            return None
        squares = [(one - other) ** 2 for one, other in zip(self.expected, self.predicted, strict=True)]
        return math.sqrt(math.fsum(squares) / len(squares))

    def as_table(self) -> dict[str, Any]:
        """Return what the report shows as JSON values."""
        classes = [
            {
                "name": one.name,
                "rows": one.rows,
                "predicted": one.predicted,
                "precision": one.precision,
                "recall": one.recall,
                "recall_interval": list(one.recall_interval),
                "f1": one.f1,
            }
            for one in self.classes
        ]
        return {
            "kind": self.kind,
            "step": self.step,
            "rows": self.rows,
            "labels": list(self.labels),
            "confusion": self.confusion,
            "classes": classes,
            "calibration": [
                {"rows": one.rows, "confidence": one.confidence, "right": one.right, "interval": list(one.interval)}
                for one in self.bins
            ],
            "calibration_error": self.calibration_error,
            "root_mean_square_error": self.mean_error,
        }


def entity_rows(metrics: Mapping[str, Any]) -> list[tuple[str, float | None, float | None, float | None]]:
    """Return precision, recall and F1 of each type of entity from the metrics of a run that tags words."""
    kinds = sorted(name.removeprefix("eval_f1/") for name in metrics if name.startswith("eval_f1/"))
    names: Sequence[str] = ("precision", "recall", "f1")
    found = [(kind, [metrics.get(f"eval_{name}/{kind}") for name in names]) for kind in kinds]
    return [(kind, *(one if _is_number(one) else None for one in values)) for kind, values in found]  # type: ignore[misc]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
