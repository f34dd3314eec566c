"""The base class of objectives for preference pairs: both answers are rendered, and both are in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.formats import Preference, RowFaultError
from lora_ns.objectives.base import TEXT_AND_LABEL
from lora_ns.objectives.text import Renders, TextObjective

_TEMPLATES = (
    "dataset.prompt_template",
    "dataset.fallback_prompt_templates",
    "dataset.completion_template",
    "dataset.system_template",
)

_SHARE = 0.05
"""Learning rate of preference objectives for adapters, as a share of that of supervised fine-tuning."""


class PairObjective(TextObjective):
    """An objective that learns from a preferred and a rejected answer to the same prompt."""

    examples: ClassVar[tuple[type, ...]] = (Preference,)
    inert: ClassVar[tuple[str, ...]] = (*TEXT_AND_LABEL, *_TEMPLATES)
    has_reference: ClassVar[bool] = True
    divides_weights: ClassVar[bool | str] = "the reference has been compared with the start on whole weights only"
    forward_passes: ClassVar[int] = 2
    scores_every_token: ClassVar[bool] = False

    on_overflow: Literal["error", "drop", "truncate-prompt", "truncate"] = "error"
    """Pairs with a longer side: refuse, drop, truncate both at the start of the prompt, or each at the end."""

    def sequences(self, example: Any, renderer: Renders) -> Sequence[Any]:
        """The preferred and the rejected sequence. Raises `RowFaultError`."""
        sides = [renderer.examples(side) for side in example.sides]
        if any(len(side) > 1 for side in sides):
            what = "the chat template shows earlier answers differently, and this row has several answers to learn"
            raise RowFaultError(what, "keep one answer after the common prompt", "PAIR002")
        return [side[0] for side in sides]

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """A twentieth of the rate for supervised fine-tuning: 1e-5 for LoRA on a 7B base."""
        return float(f"{super().usual_rate(typical, width) * _SHARE:.0e}")

    @classmethod
    def starter_rows(cls, _asked: str, _answered: str) -> Sequence[Mapping[str, Any]]:
        """Short answers that are preferred to long ones."""
        sums = (("2 + 3", "5"), ("4 + 1", "5"), ("7 + 2", "9"), ("6 + 3", "9"))
        return [
            {"prompt": f"What is {terms}?", "chosen": result, "rejected": f"The result of {terms} is {result}."}
            for terms, result in sums
        ]
