"""The predictions of a run with labels on its evaluation rows, kept so that its report shows where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.files.disk import write_atomic

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

MOST_ROWS = 20_000
"""Evaluation rows whose predictions are kept."""


def prediction_writer(trainer: Trainer, labels: Sequence[str], file: Path) -> TrainerCallback:
    """A callback that writes the predictions of the last evaluation, or of the best one if that model is kept.

    Args:
        trainer: a trainer of labels, which keeps the predictions of an evaluation in `predicted`.
        labels: names of the classes.
        file: the file to write.
    """
    from transformers import TrainerCallback

    class PredictionWriter(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `prediction_writer`."""

        def on_evaluate(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            if not args.load_best_model_at_end:
                self._write(state.global_step)

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            if args.load_best_model_at_end and state.best_global_step == state.global_step:
                self._write(state.global_step)

        def _write(self, step: int) -> None:
            table = as_table(trainer.problem_type, *trainer.predicted)
            if table:
                write_atomic(file, json.dumps({"step": step, "labels": list(labels), **table}) + "\n")

    return PredictionWriter()


def as_table(kind: str | None, logits: Any, expected: Any) -> dict[str, Any] | None:
    """Return predictions as lists.

    Args:
        kind: problem type, by transformers' name; None for tags, whose figures by type are among the metrics.
        logits: shape (rows, classes).
        expected: class ids, scores, or a 0 or 1 for each label.

    Returns:
        `kind`, `rows`, `expected` and `predicted`; for one class per row also `confidence`, the probability of the
        predicted one. None if there is nothing to keep.
    """
    import numpy as np

    if kind is None or logits is None or not len(logits):
        return None
    logits, rows = np.asarray(logits, dtype=np.float64)[:MOST_ROWS], len(logits)
    known = {"kind": kind, "rows": rows, "expected": np.asarray(expected)[:MOST_ROWS].tolist()}
    if kind == "regression":
        return {**known, "predicted": np.round(logits.reshape(len(logits)), 6).tolist()}
    if kind == "multi_label_classification":
        return {**known, "predicted": (logits > 0).astype(int).tolist()}
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    confidence = shifted.max(axis=1) / shifted.sum(axis=1)
    return {**known, "predicted": logits.argmax(axis=1).tolist(), "confidence": np.round(confidence, 5).tolist()}
