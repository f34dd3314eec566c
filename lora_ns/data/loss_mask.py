"""Which tokens of a row are in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lora_ns.formats import Message
from lora_ns.table import IGNORED

TrainOn = Literal["assistant", "last", "all"]


@dataclass(frozen=True)
class Rendered:
    """A row as the model sees it."""

    input_ids: list[int]
    trained: list[bool]
    """For each token, whether its prediction is in the loss."""

    @property
    def labels(self) -> list[int]:
        """The tokens that are to be predicted, and `IGNORED` for the others."""
        return [token if learn else IGNORED for token, learn in zip(self.input_ids, self.trained, strict=True)]


def is_learned(answer: Message, train_on: TrainOn, is_last: bool) -> bool:
    """Whether an answer is in the loss: as the row says, or else the recipe."""
    return answer.train if answer.train is not None else train_on == "assistant" or is_last
