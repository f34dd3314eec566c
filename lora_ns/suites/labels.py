"""What runs of labels are measured by: classes, several labels, scores, and tags of words. Recipes do not name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.formats import ProblemType
from lora_ns.formats.tokens import entities, has_scheme
from lora_ns.statistics import (
    Measure,
    entity_f1,
    entity_precision,
    entity_recall,
    f1,
    macro_f1,
    matthews,
    mean,
    pearson,
    precision,
    recall,
    root_mean_square,
    share,
    spearman,
)
from lora_ns.suites.base import Asks, Gold, Suite

MOST_CLASSES = 10
"""Number of classes up to which each has a figure of its own."""


class LabelSuite(Suite):
    """Figures of labels, with the values of `objectives/metrics.py`."""

    labels: tuple[str, ...] = ()
    """Names of the labels."""

    asks: ClassVar[Asks] = "label"

    def shown(self, gold: Gold, answer: Any) -> str:
        """A label or a score; several labels in a list."""
        del gold
        if isinstance(answer, float):
            return f"{answer:.4g}"
        return ", ".join(answer) or "no label" if isinstance(answer, list) else str(answer)

    def _each(self, name: str, of: Callable[[str], Measure]) -> dict[str, Measure]:
        """A figure for each label, if they are few."""
        return {f"{name}/{one}": of(one) for one in self.labels} if len(self.labels) <= MOST_CLASSES else {}


class ClassSuite(LabelSuite):
    """One class per row. F1 decides between two classes, as for GLUE's MRPC, accuracy between more."""

    kind: Literal["classes"] = "classes"

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The metrics of classes, and the F1 score of each class."""
        numbers, expected = {name: number for number, name in enumerate(self.labels)}, [gold.label for gold in golds]
        sides = [numbers[name] for name in answers], [numbers[name] for name in expected]
        count = len(self.labels)
        accuracy = share([one == other for one, other in zip(answers, expected, strict=True)])
        first: dict[str, Measure] = {"f1": f1(*sides, count)} if count == 2 else {}
        return {
            **first,
            "accuracy": accuracy,
            "f1": f1(*sides, count),
            "precision": precision(*sides, count),
            "recall": recall(*sides, count),
            "matthews_correlation": matthews(*sides, count),
            **self._each("f1", lambda name: f1([one == name for one in answers], [one == name for one in expected])),
        }


class MultiLabelSuite(LabelSuite):
    """Several labels per row. The micro F1 score decides."""

    kind: Literal["labels"] = "labels"

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The metrics of labels, and the F1 score of each."""
        expected, predicted = (
            [[int(name in given) for name in self.labels] for given in side] for side in (_labels(golds), answers)
        )
        both = list(zip(predicted, expected, strict=True))
        found = [[a * b for a, b in zip(*row, strict=True)] for row in both]
        places = {name: place for place, name in enumerate(self.labels)}

        def of_label(name: str) -> Measure:
            place = places[name]
            return f1([row[place] for row in predicted], [row[place] for row in expected])

        return {
            "f1_micro": entity_f1(*([sum(row) for row in side] for side in (found, predicted, expected))),
            "f1_macro": macro_f1(found, predicted, expected, counts_absent=True),
            "subset_accuracy": share([one == other for one, other in both]),
            **self._each("f1", of_label),
        }


class ScoreSuite(LabelSuite):
    """A score per row. The root mean squared error decides, because a constant answer has no correlation."""

    kind: Literal["scores"] = "scores"

    lower_is_better: ClassVar[tuple[str, ...]] = ("rmse",)

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The metrics of scores."""
        expected = _labels(golds)
        return {
            "rmse": root_mean_square([one - other for one, other in zip(answers, expected, strict=True)]),
            "pearson": pearson(answers, expected),
            "spearman": spearman(answers, expected),
        }


class TagSuite(LabelSuite):
    """A tag per word. The F1 score of entities decides; for tags that mark none, such as parts of speech, accuracy."""

    kind: Literal["tags"] = "tags"

    def shown(self, gold: Gold, answer: Any) -> str:
        """The words with their tags, those outside any entity without."""
        words = (gold.question or "").split(" ")
        if len(words) != len(answer):  # a word has a space in it
            return " ".join(answer)
        return " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in zip(words, answer, strict=True))

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """The metrics of tags, and those of each type of entity or the F1 score of each tag."""
        expected = _labels(golds)
        right = [sum(a == b for a, b in zip(*both, strict=True)) for both in zip(answers, expected, strict=True)]
        shares = [hits / max(1, len(row)) for hits, row in zip(right, expected, strict=True)]
        accuracy = {"accuracy": mean(shares, [len(row) for row in expected], (0.0, 1.0))}
        if has_scheme(self.labels):
            return _of_entities(answers, expected) | accuracy
        both = list(zip(answers, expected, strict=True))
        counts = {name: [_counts(row, side, name) for row, side in both] for name in self.labels}
        by_side = ([[row[side] for row in rows] for rows in zip(*counts.values(), strict=True)] for side in range(3))
        return {
            **accuracy,
            "f1_macro": macro_f1(*by_side, counts_absent=False),
            **self._each("f1", lambda name: entity_f1(*zip(*counts[name], strict=True))),
        }


def suite_of(kind: ProblemType | None, labels: tuple[str, ...]) -> LabelSuite:
    """The suite for a kind of label; None for tags of words."""
    if kind is None:
        return TagSuite(labels=labels)
    if kind == "regression":
        return ScoreSuite()
    return (MultiLabelSuite if kind == "multi_label_classification" else ClassSuite)(labels=labels)


def _labels(golds: Sequence[Gold]) -> list[Any]:
    return [gold.label for gold in golds]


def _counts(answer: Sequence[str], expected: Sequence[str], name: str) -> tuple[int, int, int]:
    """The number of words with a tag: found, predicted and expected."""
    found = sum(one == other == name for one, other in zip(answer, expected, strict=True))
    return found, sum(tag == name for tag in answer), sum(tag == name for tag in expected)


def _of_entities(answers: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, Measure]:
    """Precision, recall and F1 of entities, over all and for each type that is expected, if they are few."""
    sides = [[set(entities(row)) for row in side] for side in (answers, expected)]
    types = sorted({entity.type for row in sides[1] for entity in row})
    scores = {"f1": entity_f1, "precision": entity_precision, "recall": entity_recall}
    measures: dict[str, Measure] = {}
    for kind in [None, *(types if len(types) <= MOST_CLASSES else ())]:
        predicted, wanted = (
            [{one for one in row if kind is None or one.type == kind} for row in side] for side in sides
        )
        counts = [
            [len(one & other) for one, other in zip(predicted, wanted, strict=True)],
            [len(row) for row in predicted],
            [len(row) for row in wanted],
        ]
        measures |= {f"{name}{'' if kind is None else f'/{kind}'}": score(*counts) for name, score in scores.items()}
    return measures
