"""`[classification]` of words: a tag for each, as in named-entity recognition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.formats import Tagged
from lora_ns.objectives.base import TEXT_AND_LABEL, Answers, TaskType
from lora_ns.objectives.labels import WRITING_TEXT, LabelObjective
from lora_ns.objectives.metrics import tag_metrics
from lora_ns.table import IGNORED


class Tagging(LabelObjective):
    """A tag for each word, trained by transformers' `Trainer`."""

    task_type: ClassVar[TaskType] = "TOKEN_CLS"
    examples: ClassVar[tuple[type, ...]] = (Tagged,)
    answers: ClassVar[Answers] = "tags"
    writes: ClassVar[tuple[str, ...]] = ("entities",)
    inert: ClassVar[tuple[str, ...]] = (*WRITING_TEXT, *TEXT_AND_LABEL)
    collator: ClassVar[str] = "DataCollatorForTokenClassification"

    table: Literal["tagging"] = "tagging"

    def problem_type_of(self, _model: Any) -> str | None:
        """None, since each word has exactly one tag."""
        return None

    def kept_logits(self, logits: Any) -> Any:
        """The best tag of each token."""
        return logits.argmax(-1)

    def metrics(self, logits: Any, expected: Any, labels: Sequence[str], _problem_type: str | None) -> dict[str, float]:
        """Metrics of entities, or of tags that mark no entities."""
        scored = expected != IGNORED
        sides = [
            [[labels[number] for number in row[kept]] for row, kept in zip(side, scored, strict=True)]
            for side in (logits, expected)
        ]
        return tag_metrics(*sides)

    @classmethod
    def starter_rows(cls, _asked: str, _answered: str) -> Sequence[Mapping[str, Any]]:
        """Sentences with tagged place names."""
        return [
            {"tokens": ["Rain", "in", "Oslo"], "tags": ["O", "O", "B-LOC"]},
            {"tokens": ["Lima", "is", "dry"], "tags": ["B-LOC", "O", "O"]},
        ]
