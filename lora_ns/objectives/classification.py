"""`[classification]` of texts: classes, several labels or a score for a text or a pair."""

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
    """Labels for a text or a pair, through transformers' `Trainer`."""

    task_type: ClassVar[TaskType] = "SEQ_CLS"
    examples: ClassVar[tuple[type, ...]] = (Labelled,)
    answers: ClassVar[Answers] = "labels"
    writes: ClassVar[tuple[str, ...]] = ("output", "score", "scores")
    inert: ClassVar[tuple[str, ...]] = (*WRITING_TEXT, "dataset.columns")
    collator: ClassVar[str] = "DataCollatorWithPadding"
    names_classes: ClassVar[str] = 'name them here, or write `problem_type = "regression"`'

    table: Literal["classification"] = "classification"
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    """What a label is: one class, a list of labels, or a score; `auto` goes by the training rows and says why."""
    threshold: Fraction = 0.5
    """Probability from which a label applies to a text; only where there may be several."""

    def conflicts(self) -> Iterator[Conflict]:
        """Keys of one kind of labels beside another kind, and weights that are not one for each label."""
        if "problem_type" in self.model_fields_set and self.problem_type != "auto":
            for name in self.unread(self.problem_type)[:1]:
                what = f'`{name}` has no effect with `problem_type = "{self.problem_type}"`'
                yield Conflict((self.key("problem_type"), self.key(name)), what, "remove it")
        yield from super().conflicts()

    def unread(self, problem_type: ProblemType) -> list[str]:
        """Keys of the recipe that have no effect where labels are of this kind."""
        return [name for name in _INERT[problem_type] if name in self.model_fields_set]

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """As of all labels; scores lose nothing."""
        if self.problem_type != "regression":
            yield from super().lost_in_a_stream()

    def problem_type_of(self, model: Any) -> str | None:
        """What a label is, by transformers' name, of a model that was loaded for it."""
        found: str | None = getattr(model.config, "problem_type", None)
        return found

    def metrics(self, logits: Any, expected: Any, labels: Sequence[str], problem_type: str | None) -> dict[str, float]:
        """What is usual for a score, for several labels, for one class."""
        if problem_type == "regression":
            return regression_metrics(logits.reshape(-1).tolist(), expected.tolist())
        if problem_type == "multi_label_classification":
            applies = _probable(logits, self.threshold)
            return multi_label_metrics(applies.astype(int).tolist(), expected.astype(int).tolist())
        return classification_metrics(logits.argmax(-1).tolist(), expected.tolist(), len(labels))

    def said(self, scores: Tensor, labels: Sequence[str], problem_type: ProblemType | None) -> dict[str, Any]:
        """What the scores of a text say, of shape (labels,)."""
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
        """Pairs of sentences that say the same or not."""
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
"""By what a label is, the keys that are not read."""


def _probable(logits: Any, threshold: float) -> Any:
    import numpy

    with numpy.errstate(over="ignore"):
        return 1 / (1 + numpy.exp(-logits)) >= threshold
