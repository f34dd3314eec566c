"""The items behind the metrics of an evaluation during training, by which two evaluations are compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_ns.objectives import LabelObjective
from lora_ns.recipe.recipe import Recipe
from lora_ns.statistics import Measure, mean
from lora_ns.suites import Gold
from lora_ns.suites.labels import suite_of
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    from transformers import Trainer


@dataclass
class Evidence:
    """The items of the last evaluation: batches for the loss, rows for labels and suites."""

    recipe: Recipe
    labels: Sequence[str]
    of_suites: dict[str, Measure] = field(default_factory=dict)
    """Figures of the suites, by the names of their metrics; on rank 0."""
    _trainer: Any = None
    _predicted: tuple[Any, Any] | None = None

    def watch(self, trainer: Trainer) -> None:
        """Follow the evaluations of a trainer."""
        self._trainer = trainer
        if not isinstance(self.recipe.objective, LabelObjective):
            return
        metrics: Any = trainer.compute_metrics

        def kept(prediction: Any) -> dict[str, float]:
            self._predicted = prediction.predictions, prediction.label_ids
            found: dict[str, float] = metrics(prediction)
            return found

        trainer.compute_metrics = kept

    def measured(self, name: str) -> Measure | None:
        """A metric with its items; None if it is no figure of items, such as a margin."""
        if name == "loss":
            losses: Sequence[tuple[float, int]] = getattr(self._trainer, "eval_units", ())
            return mean([loss for loss, _ in losses], [count for _, count in losses]) if losses else None
        return self.of_suites.get(name) or self._of_labels().get(name)

    def _of_labels(self) -> Mapping[str, Measure]:
        """The figures of labels, as `lorans eval` computes them."""
        objective = self.recipe.objective
        if self._predicted is None or not isinstance(objective, LabelObjective):
            return {}
        problem_type: Any = getattr(self._trainer, "problem_type", None)
        found = [_sides(*pair, self.labels, problem_type, objective) for pair in zip(*self._predicted, strict=True)]
        kept = [pair for pair in found if pair is not None]
        golds = [Gold(where="", answer=None, label=expected) for _, expected in kept]
        return suite_of(problem_type, tuple(self.labels)).measure(golds, [predicted for predicted, _ in kept])


def _sides(
    logits: Any, expected: Any, labels: Sequence[str], problem_type: str | None, objective: Any
) -> tuple[Any, Any] | None:
    """The predicted and the expected answer of a row; None for a row without a label, which fills up a batch."""
    import numpy as np

    if problem_type == "regression":
        return None if np.isnan(expected).any() else (float(np.reshape(logits, -1)[0]), float(expected))
    if problem_type == "multi_label_classification":
        if np.isnan(expected).any():
            return None
        probable = 1 / (1 + np.exp(-logits)) >= objective.threshold
        return tuple([name for name, is_in in zip(labels, side, strict=True) if is_in] for side in (probable, expected))  # type: ignore[return-value]
    if problem_type is None:
        scored = expected != IGNORED
        if not scored.any():
            return None
        return [labels[number] for number in logits[scored]], [labels[number] for number in expected[scored]]
    return None if expected == IGNORED else (labels[int(logits.argmax(-1))], labels[int(expected)])
