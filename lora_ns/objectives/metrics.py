"""Metrics: scikit-learn for classes, labels and scores, seqeval for entities, string comparison for answers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from lora_ns.formats.tokens import has_scheme
from lora_ns.safety.deadline import bounded


def classification_metrics(predicted: Sequence[int], expected: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy, Matthews correlation, F1, precision and recall.

    With two classes, the last three are those of class 1, as in GLUE; otherwise their mean over the classes.
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
    """Micro and macro F1, and the share of rows whose labels are all right.

    Args:
        predicted: for each row, a 0 or 1 for each label.
        expected: labels in the same form.
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
    """Pearson and Spearman correlation, and root mean squared error.

    A correlation is 0 if one of the sides is constant, for which it is undefined.
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
    """Accuracy over the words, and precision, recall and F1 of entities, overall and for each type.

    An entity is right if its type, first and last word are, as in conlleval. Tags that mark no entities, such as parts
    of speech, get the macro F1 over the tags instead.
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
        return dict.fromkeys(names, 0.0)  # seqeval reports by type, and without entities there are no types
    found = classification_report(
        [list(row) for row in expected], [list(row) for row in predicted], output_dict=True, zero_division=0
    )
    whole = found["micro avg"]
    types = {kind: scores for kind, scores in found.items() if not kind.endswith(" avg")}
    return {name: float(whole[key]) for name, key in names.items()} | {
        f"{name}/{kind}": float(scores[key]) for kind, scores in sorted(types.items()) for name, key in names.items()
    }


def extract_answer(text: str, pattern: str | None) -> str:
    """The part of a text to compare: the last match of the pattern (its group, if it has one), or the whole text.

    White space around it is removed. A text without a match has an empty answer.

    Raises:
        OverrunError: if matching the pattern takes too much time or memory.
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
    """True if an extracted answer equals the expected one. An empty answer never matches."""
    return answer == expected and bool(answer)
