"""What is measured: classes by scikit-learn, answers by comparing them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any


def classification_metrics(predicted: Sequence[int], expected: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy, F1, precision and recall: of class 1 if there are two classes, as in GLUE, else the macro mean."""
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    average = "binary" if classes == 2 else "macro"
    precision, recall, f1, _ = precision_recall_fscore_support(
        expected, predicted, average=average, labels=None if classes == 2 else list(range(classes)), zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(expected, predicted)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
    }


def extract_answer(text: str, pattern: str | None) -> str:
    """The part of a text that is compared: the last match of the pattern (its group, if it has one), or all of it.

    Space around it does not count. A text without a match has the empty answer.
    """
    if pattern is None:
        return text.strip()
    matches = list(re.finditer(pattern, text))
    if not matches:
        return ""
    last = matches[-1]
    return (last[1] if last.re.groups else last[0]).strip()


def is_match(written: str, expected: str, pattern: str | None) -> bool:
    """Whether an answer is the expected one; no answer never is."""
    answer = extract_answer(written, pattern)
    return answer == extract_answer(expected, pattern) and bool(answer)


def exact_match(matches: Sequence[bool], groups: Sequence[Any] | None) -> dict[str, float]:
    """The share of right answers, over all and over the rows of each group."""
    scores = {"exact_match": sum(matches) / len(matches)}
    by_group: dict[str, list[bool]] = defaultdict(list)
    for match, group in zip(matches, groups or (), strict=False):
        by_group[str(group)].append(match)
    for name in sorted(by_group):
        scores[f"exact_match/{name}"] = sum(by_group[name]) / len(by_group[name])
    return scores
