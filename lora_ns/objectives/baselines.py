"""Baselines: the metrics of constant answers. A model that is no better has learned nothing from the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.formats import ProblemType
from lora_ns.objectives.metrics import classification_metrics, multi_label_metrics, regression_metrics, tag_metrics
from lora_ns.objectives.targets import OUTSIDE

LOWER_IS_BETTER = frozenset({"rmse"})


_NAMES = {"rmse": "RMSE", "f1": "F1", "f1_macro": "macro F1", "f1_micro": "micro F1"}


@dataclass(frozen=True)
class Baseline:
    """The best constant answer on the training rows for each metric."""

    problem_type: ProblemType | None
    """Kind of the labels; None for tags of words."""
    labels: Sequence[str]
    constants: Mapping[str, Any]
    """Constant answers by metric, as JSON values: a score, the name of a class or tag, or a list of labels."""

    @classmethod
    def of(cls, problem_type: ProblemType | None, labels: Sequence[str], learned: Sequence[Any]) -> Baseline:
        """Compute the constants from training labels: scores, class ids, a 0 or 1 for each label, or tag ids."""
        if problem_type == "regression":
            return cls(problem_type, labels, {"rmse": sum(learned) / len(learned)})
        if problem_type == "multi_label_classification":
            return cls(problem_type, labels, _label_sets(labels, learned))
        if problem_type is None:
            tag = OUTSIDE if OUTSIDE in labels else labels[_commonest([tag for row in learned for tag in row])]
            return cls(problem_type, labels, dict.fromkeys(("accuracy", "f1", "f1_macro"), tag))
        common = labels[_commonest(learned)]
        # With two classes, F1 is that of the second one: always answering it finds all of its rows.
        return cls(problem_type, labels, {"accuracy": common, "f1": labels[1] if len(labels) == 2 else common})

    def measure(self, expected: Sequence[Any]) -> dict[str, float]:
        """The metrics of the constants on labels, given as in training rows."""
        found = {name: self._metrics(constant, expected).get(name) for name, constant in self.constants.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _metrics(self, constant: Any, expected: Sequence[Any]) -> dict[str, float]:
        return label_metrics(self.problem_type, self.labels, self.answers(constant, expected), expected)

    def answers(self, constant: Any, expected: Sequence[Any]) -> list[Any]:
        """The constant as the answer to each row; as that of each word for tags."""
        return [[constant] * len(row) if self.problem_type is None else constant for row in expected]

    def unbeaten(self, measured: Mapping[str, float], reached: Mapping[str, float]) -> list[str]:
        """A warning for each metric of a model that is no better than that of the constant answer."""
        warnings = []
        for name, constant in self.constants.items():
            if name in measured and name in reached:
                gain = measured[name] - reached[name]
                gain = -gain if name in LOWER_IS_BETTER else gain
                if gain <= 0:
                    warnings.append(_warning(name, constant, measured[name], reached[name], gain))
        return warnings


def label_metrics(
    problem_type: ProblemType | None, labels: Sequence[str], answers: Sequence[Any], expected: Sequence[Any]
) -> dict[str, float]:
    """The usual metrics of one kind of label.

    Args:
        problem_type: the kind; None for tags of words.
        labels: names of the labels.
        answers: scores, names of classes, or lists of names.
        expected: scores, class ids, a 0 or 1 for each label, or tag ids, as in training rows.
    """
    if problem_type == "regression":
        return regression_metrics(answers, expected)
    if problem_type == "multi_label_classification":
        predicted = [[int(name in answer) for name in labels] for answer in answers]
        return multi_label_metrics(predicted, [[int(value) for value in one] for one in expected])
    if problem_type is None:
        return tag_metrics(answers, [[labels[number] for number in row] for row in expected])
    numbers = {name: number for number, name in enumerate(labels)}
    return classification_metrics([numbers[name] for name in answers], expected, len(labels))


def _warning(name: str, constant: Any, measured: float, reached: float, gain: float) -> str:
    always = "the mean" if name == "rmse" else _quoted(constant)
    how = "worse" if gain < 0 else "no better"
    has = "have" if isinstance(constant, list) and len(constant) > 1 else "has"
    metric = _NAMES.get(name, name.replace("_", " "))
    return f"{how} than always answering {always}: {metric} {measured:.4g}, {always} {has} {reached:.4g}"


def _quoted(constant: Any) -> str:
    names = [constant] if isinstance(constant, str) else constant
    return ", ".join(f"`{name}`" for name in names) or "no label"


def _commonest(numbers: Sequence[int]) -> int:
    counts = Counter(numbers)
    return max(counts, key=lambda number: (counts[number], -number))


def _label_sets(labels: Sequence[str], learned: Sequence[Sequence[float]]) -> dict[str, list[str]]:
    """The best constant set of labels for each multi-label metric."""
    counts = [sum(int(row[number]) for row in learned) for number in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda number: (-counts[number], number))

    def micro(size: int) -> float:
        hits = sum(counts[number] for number in order[:size])
        return 2 * hits / (size * len(learned) + sum(counts)) if hits else 0.0

    best = max(range(1, len(labels) + 1), key=lambda size: (micro(size), -size))
    rows = Counter(tuple(int(value) for value in row) for row in learned)
    commonest = max(rows, key=lambda row: (rows[row], row))
    sets = {
        "f1_micro": sorted(order[:best]),
        "f1_macro": range(len(labels)),
        "subset_accuracy": [number for number, value in enumerate(commonest) if value],
    }
    return {name: [labels[number] for number in chosen] for name, chosen in sets.items()}
