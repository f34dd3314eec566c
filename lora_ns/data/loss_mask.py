"""The loss mask: the tokens of a row that are in the loss."""

from __future__ import annotations

from dataclasses import dataclass

from lora_ns.formats import Message
from lora_ns.objectives.rendering import LossOn
from lora_ns.table import IGNORED


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it."""

    input_ids: list[int]
    trained: list[bool]
    """For each token, True if its prediction is in the loss."""

    @property
    def labels(self) -> list[int]:
        """Token ids to predict, and `IGNORED` elsewhere."""
        return [token if learn else IGNORED for token, learn in zip(self.input_ids, self.trained, strict=True)]


def is_learned(answer: Message, loss_on: LossOn, is_last: bool) -> bool:
    """True if an answer is in the loss, according to the row, or else the recipe."""
    return answer.train if answer.train is not None else loss_on == "assistant" or is_last
