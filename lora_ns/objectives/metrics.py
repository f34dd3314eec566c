"""What is measured: classes, labels and scores by scikit-learn, entities by seqeval, answers by comparing them."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from lora_ns.formats.tokens import has_scheme
from lora_ns.safety.deadline import bounded


def classification_metrics(predicted: Sequence[int], expected: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy, Matthews correlation, F1, precision and recall.

    The last three are of class 1 if there are two classes, as in GLUE, else the mean over the classes.
    """
    from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_recall_fscore_support

    average = "binary" if classes == 2 else "macro"
    precision, recall, f1, _ = precision_recall_fscore_support(
        expected, predicted, average=average, labels=None if classes == 2 else list(range(classes)), zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(expected, predicted)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "matthews_correlation": float(matthews_corrcoef(expected, predicted)),
    }


def multi_label_metrics(predicted: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> dict[str, float]:
    """F1 over all labels together and as the mean over the labels, and the share of rows with exactly their labels.

    Args:
        predicted: a 0 or 1 for each label, row by row.
        expected: the same.
    """
    from sklearn.metrics import f1_score

    exact = [list(one) == list(other) for one, other in zip(predicted, expected, strict=True)]
    return {
        **{
            f"f1_{average}": float(f1_score(expected, predicted, average=average, zero_division=0))
            for average in ("micro", "macro")
        },
        "subset_accuracy": sum(exact) / len(exact),
    }


def regression_metrics(predicted: Sequence[float], expected: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation, and the root of the mean squared error.

    A correlation is 0 where one of the sides is all alike, and there is none: scores that say nothing of the rows.
    """
    from scipy.stats import rankdata

    squares = [(one - other) ** 2 for one, other in zip(predicted, expected, strict=True)]
    return {
        "pearson": _correlation(predicted, expected),
        "spearman": _correlation(rankdata(predicted).tolist(), rankdata(expected).tolist()),
        "rmse": math.sqrt(sum(squares) / len(squares)),
    }


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    import numpy

    first, second = (numpy.asarray(side, dtype=numpy.float64) - numpy.mean(side) for side in (one, other))
    spread = float(numpy.linalg.norm(first) * numpy.linalg.norm(second))
    rounding = 1e-12 * max(1.0, float(numpy.abs(one).max() * numpy.abs(other).max())) * len(one)
    return float(first @ second) / spread if spread > rounding else 0.0


def tag_metrics(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Accuracy over the words, and of entities precision, recall and F1: over all and for each type.

    An entity counts if type, first and last word are right, as conlleval has it. Tags that mark no entities, such as
    parts of speech, have the mean F1 over the tags instead.
    """
    from sklearn.metrics import accuracy_score, f1_score

    flat = [[tag for row in side for tag in row] for side in (expected, predicted)]
    accuracy = {"accuracy": float(accuracy_score(*flat))}
    if any(tag != "O" for side in flat for tag in side) and not has_scheme([*flat[0], *flat[1]]):
        return {**accuracy, "f1_macro": float(f1_score(*flat, average="macro", zero_division=0))}
    return {**accuracy, **_entity_metrics(predicted, expected)}


def _entity_metrics(predicted: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    from seqeval.metrics import classification_report

    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    if all(tag == "O" for side in (predicted, expected) for row in side for tag in row):
        return dict.fromkeys(names, 0.0)  # no entity anywhere: seqeval reports on types, and there is none
    found = classification_report(
        [list(row) for row in expected], [list(row) for row in predicted], output_dict=True, zero_division=0
    )
    whole = found["micro avg"]
    types = {kind: scores for kind, scores in found.items() if not kind.endswith(" avg")}
    return {name: float(whole[key]) for name, key in names.items()} | {
        f"{name}/{kind}": float(scores[key]) for kind, scores in sorted(types.items()) for name, key in names.items()
    }


def extract_answer(text: str, pattern: str | None) -> str:
    """The part of a text that is compared: the last match of the pattern (its group, if it has one), or all of it.

    Space around it does not count. A text without a match has the empty answer.

    Raises:
        OverrunError: if the pattern does not come to an end on this text.
    """
    if pattern is None:
        return text.strip()
    last = bounded(lambda: _last(re.finditer(pattern, text)))
    if last is None:
        return ""
    return (last[1] if last.re.groups else last[0]).strip()


def _last(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    found = None
    for match in matches:
        found = match
    return found


def is_match(answer: str, expected: str) -> bool:
    """Whether an answer, as it was extracted, is the expected one; no answer never is."""
    return answer == expected and bool(answer)


def exact_match(matches: Sequence[bool], groups: Sequence[Any] | None) -> dict[str, float]:
    """The share of right answers, over all and over the rows of each group."""
    scores = {"exact_match": sum(matches) / len(matches)}
    by_group: dict[str, list[bool]] = defaultdict(list)
    for match, group in zip(matches, groups or (), strict=False):
        by_group[str(group)].append(match)
    for name in sorted(by_group):
        scores[f"exact_match/{name}"] = sum(by_group[name]) / len(by_group[name])
    return scores
