"""The base class of objectives for preference pairs: both answers are rendered, and both are in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.formats import Conversation, Preference, RowFaultError
from lora_ns.objectives.base import TEXT_AND_LABEL
from lora_ns.objectives.text import Renders, TextObjective
from lora_ns.objectives.watches import LikelihoodDisplacement, Watch

_TEMPLATES = (
    "dataset.prompt_template",
    "dataset.fallback_prompt_templates",
    "dataset.completion_template",
    "dataset.system_template",
)


class PairObjective(TextObjective):
    """An objective that learns from a preferred and a rejected answer to the same prompt."""

    examples: ClassVar[tuple[type, ...]] = (Preference,)
    inert: ClassVar[tuple[str, ...]] = (*TEXT_AND_LABEL, *_TEMPLATES)
    has_reference: ClassVar[bool] = True
    divides_weights: ClassVar[bool | str] = "the reference has been compared with the start on whole weights only"
    forward_passes: ClassVar[int] = 2
    scores_every_token: ClassVar[bool] = False
    shows: ClassVar[Mapping[str, str]] = {"rewards/accuracies": "pairs right", "rewards/margins": "margin"}
    rate_share: ClassVar[float] = 0.05
    """Learning rate for adapters, as a share of `rate`."""

    on_overflow: Literal["error", "drop", "truncate-prompt", "truncate"] = "error"
    """Pairs with a longer side: refuse, drop, truncate both at the start of the prompt, or each at the end."""

    def sequences(self, example: Any, renderer: Renders) -> Sequence[Any]:
        """The preferred and the rejected sequence. Raises `RowFaultError`."""
        return [self.sequence(side, renderer) for side in example.sides]

    def sequence(self, side: Conversation, renderer: Renders) -> Any:
        """The sequence of one side. Raises `RowFaultError`."""
        found = renderer.examples(side)
        if len(found) > 1:
            what = "the chat template shows earlier answers differently, and this row has several answers to learn"
            raise RowFaultError(what, "keep one answer after the common prompt", "PAIR002")
        return found[0]

    def watches(self) -> Sequence[Watch]:
        """The watch for chosen answers that become less likely."""
        return (LikelihoodDisplacement(self.against_displacement),)

    @property
    def against_displacement(self) -> str:
        """Remedy for chosen answers that become less likely."""
        return f"raise `{self.key('beta')}`, or lower `training.learning_rate`"

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """A share of the usual rate: a twentieth of that for supervised fine-tuning is 1e-5 for LoRA on a 7B base."""
        return float(f"{super().usual_rate(typical, width) * cls.rate_share:.0e}")

    @classmethod
    def starter_rows(cls, _asked: str, _answered: str) -> Sequence[Mapping[str, Any]]:
        """Short answers that are preferred to long ones."""
        sums = (("2 + 3", "5"), ("4 + 1", "5"), ("7 + 2", "9"), ("6 + 3", "9"))
        return [
            {"prompt": f"What is {terms}?", "chosen": result, "rejected": f"The result of {terms} is {result}."}
            for terms, result in sums
        ]
