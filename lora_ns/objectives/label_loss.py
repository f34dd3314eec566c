"""The loss of labels, with class weights and masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.table import IGNORED

if TYPE_CHECKING:
    import datasets
    from torch import Tensor


def loss_of(
    logits: Tensor, labels: Tensor, problem_type: str | None, weights: Tensor | None, smoothing: float = 0.0
) -> Tensor:
    """The loss, summed over all labelled items: rows, labels of rows, or words.

    Each term is multiplied by the weight of its class; with several labels, only the terms of labels that apply. Rows
    with NaN labels only fill up a batch, see `in_whole_batches`, and are skipped.
    """
    from torch.nn import functional

    logits = logits.float()
    if labels.is_floating_point():
        has_labels = ~labels.isnan().reshape(len(labels), -1).any(-1)
        logits, labels = logits[has_labels], labels[has_labels]
    if problem_type == "regression":
        return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
    if problem_type == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights, reduction="sum")
    classes = logits.shape[-1]
    return functional.cross_entropy(
        logits.reshape(-1, classes),
        labels.reshape(-1),
        weights,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def class_weights(
    weights: Literal["none", "balanced"] | Sequence[float], labels: Sequence[str], rows: datasets.Dataset
) -> list[float] | None:
    """The weight of each class in the loss, as given or balanced.

    A balanced weight is the mean number of rows per class divided by the number of rows of this class. With several
    labels, it is the number of rows without the label divided by the number with it. A class without rows has weight 1.
    """
    import numpy

    if weights == "none":
        return None
    if not isinstance(weights, str):
        return list(weights)
    values = rows["labels"][:]
    if values and isinstance(values[0][0] if isinstance(values[0], list) else values[0], float):
        with_label = numpy.asarray(values).sum(axis=0)
        return [float((len(values) - count) / count) if count else 1.0 for count in with_label]
    flat = numpy.concatenate([numpy.atleast_1d(value) for value in values])
    counts = numpy.bincount(flat[flat != IGNORED], minlength=len(labels))
    present = int((counts > 0).sum())
    return [float(counts.sum() / (present * count)) if count else 1.0 for count in counts]


def labels_that_count(rows: datasets.Dataset) -> list[Any]:
    """The labels of rows, without masked words and without rows that only fill up a batch."""
    found = []
    for value in rows["labels"][:]:
        kept = [label for label in (value if isinstance(value, list) else [value]) if _counts(label)]
        if kept:
            found.append(kept if isinstance(value, list) else value)
    return found


def _counts(label: int | float) -> bool:
    return not math.isnan(label) if isinstance(label, float) else label != IGNORED
