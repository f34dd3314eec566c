"""`[classification]` of texts: a class, several labels or a score for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.formats import Labelled, ProblemType
from lora_ns.objectives.base import Answers, TaskType
from lora_ns.objectives.labels import WRITING_TEXT, LabelObjective
from lora_ns.objectives.metrics import classification_metrics, multi_label_metrics, regression_metrics
from lora_ns.table import Conflict, Fraction

if TYPE_CHECKING:
    from torch import Tensor


class Classification(LabelObjective):
    """Labels for a text or a pair of texts, trained by transformers' `Trainer`."""

    task_type: ClassVar[TaskType] = "SEQ_CLS"
    examples: ClassVar[tuple[type, ...]] = (Labelled,)
    answers: ClassVar[Answers] = "labels"
    writes: ClassVar[tuple[str, ...]] = ("output", "score", "scores")
    inert: ClassVar[tuple[str, ...]] = (*WRITING_TEXT, "dataset.columns")
    collator: ClassVar[str] = "DataCollatorWithPadding"
    names_classes: ClassVar[str] = 'name them here, or write `problem_type = "regression"`'

    table: Literal["classification"] = "classification"
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """Kind of label: one class, a list of labels, or a score. `auto` infers it from the training rows, with a note."""
    threshold: Fraction = 0.5
    """Probability from which a label applies; only for `multi_label_classification`."""

    @property
    def judges_answers(self) -> bool:
        """False for scores, as far as the recipe says so."""
        return self.problem_type != "regression"

    def conflicts(self) -> Iterator[Conflict]:
        """Keys that have no effect on the kind of label, and a wrong number of class weights."""
        if "problem_type" in self.model_fields_set and self.problem_type != "auto":
            for name in self.unread(self.problem_type)[:1]:
                what = f'`{name}` has no effect with `problem_type = "{self.problem_type}"`'
                yield Conflict((self.key("problem_type"), self.key(name)), what, "remove it")
        yield from super().conflicts()

    def unread(self, problem_type: ProblemType) -> list[str]:
        """Keys of the recipe that have no effect on this kind of label."""
        return [name for name in _INERT[problem_type] if name in self.model_fields_set]

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """Settings that need all rows at once; none for scores."""
        if self.problem_type != "regression":
            yield from super().lost_in_a_stream()

    def problem_type_of(self, model: Any) -> str | None:
        """The problem type of a loaded model, by its transformers name."""
        found: str | None = getattr(model.config, "problem_type", None)
        return found

    def metrics(self, logits: Any, expected: Any, labels: Sequence[str], problem_type: str | None) -> dict[str, float]:
        """The usual metrics for a score, for several labels or for one class."""
        if problem_type == "regression":
            return regression_metrics(logits.reshape(-1).tolist(), expected.tolist())
        if problem_type == "multi_label_classification":
            applies = _probable(logits, self.threshold)
            return multi_label_metrics(applies.astype(int).tolist(), expected.astype(int).tolist())
        return classification_metrics(logits.argmax(-1).tolist(), expected.tolist(), len(labels))

    def prediction(self, scores: Tensor, labels: Sequence[str], problem_type: ProblemType | None) -> dict[str, Any]:
        """The answer for a text from its logits, of shape (labels,)."""
        if problem_type == "regression":
            return {"output": float(scores.squeeze())}
        if problem_type == "multi_label_classification":
            named = dict(zip(labels, scores.sigmoid().tolist(), strict=True))
            return {"output": [name for name, score in named.items() if score >= self.threshold], "scores": named}
        named = dict(zip(labels, scores.softmax(-1).tolist(), strict=True))
        best = max(named, key=lambda name: named[name])
        return {"output": best, "score": named[best], "scores": named}

    @classmethod
    def starter_rows(cls, _asked: str, _answered: str) -> Sequence[Mapping[str, Any]]:
        """Pairs of sentences, equivalent or not."""
        pairs = (
            ("A plum", "The plum", "equivalent"),
            ("A stone", "A leaf", "not_equivalent"),
            ("The cup", "A cup", "equivalent"),
            ("Rain", "A tree", "not_equivalent"),
        )
        return [
            {"sentence1": f"{one} fell.", "sentence2": f"{other} fell.", "label": label} for one, other, label in pairs
        ]


_INERT: Mapping[ProblemType, tuple[str, ...]] = {
    "single_label_classification": ("threshold",),
    "multi_label_classification": (),
    "regression": ("threshold", "labels", "class_weights"),
}
"""Keys that have no effect, by problem type."""


def _probable(logits: Any, threshold: float) -> Any:
    import numpy

    with numpy.errstate(over="ignore"):
        return 1 / (1 + numpy.exp(-logits)) >= threshold
