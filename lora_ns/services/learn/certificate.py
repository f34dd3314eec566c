"""The result of `validate --learn` as values: trials with their figures, and the cause if rows were not learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ROWS = 8
"""Rows to learn."""

Code = Literal[
    "prompt-has-answer",
    "diverged",
    "nothing-in-loss",
    "frozen",
    "answers-cut",
    "loss-on-prompts",
    "answer-not-in-loss",
    "other-template",
    "sampling",
    "repetition-penalty",
    "answer-too-long",
    "no-end-token",
    "end-not-in-loss",
    "other-stop-token",
    "other-answer",
    "rate-too-low",
    "targets",
    "capacity",
    "not-learned",
    "answers-not-from-rows",
]


@dataclass(frozen=True)
class Cause:
    """The reason why the rows are not certified."""

    code: Code
    what: str
    """The fault with its figures."""
    remedy: str
    """The change to make."""
    key: str = ""
    """Dotted recipe key to change, if there is one."""


@dataclass(frozen=True)
class Given:
    """The answer to one row after training."""

    where: str
    expected: str
    answer: str
    finish_reason: str
    """`stop` or `length`; empty for labels."""
    is_right: bool
    runs_on: bool = False
    """True if the answer begins with the expected one and does not end there."""


@dataclass(frozen=True)
class Loss:
    """What the loss of the batches covered."""

    answer_tokens: int = 0
    """Tokens of the answers, without their end tokens."""
    learned: int = 0
    """Those in the loss."""
    ends: int = 0
    """Rows with a stop token after the answer."""
    learned_ends: int = 0
    """Those whose stop token is in the loss."""
    elsewhere: int = 0
    """Tokens in the loss before the answers."""
    leaked: int = 0
    """Tokens in the loss that the rows leave out of it."""


@dataclass(frozen=True)
class Trial:
    """One training on the rows, with the answers of the saved adapter."""

    learning_rate: float
    steps: int
    seconds: float
    trainable_parameters: int
    loss_before: float | None
    """Mean loss of the answers' tokens before training: cross entropy for text; None for labels."""
    loss_after: float | None
    read_right: int
    """Rows whose answer the model predicts token by token, when it reads the training row. Text only."""
    known: int
    """Rows that were answered correctly before training, if the base was asked. Text only."""
    gradient: float
    """Largest gradient norm of a step."""
    change: float
    """Norm of the change of the trained parameters."""
    loss: Loss
    answers: tuple[Given, ...] = ()
    greedy: int | None = None
    """Rows answered correctly by plain greedy decoding, if the recipe's `[generation]` answers fewer."""
    broken: str = ""
    """The error that ended the training."""
    difference: str = ""
    """The first difference between the prompt in training and at inference."""

    @property
    def right(self) -> int:
        """Number of rows answered correctly."""
        return sum(one.is_right for one in self.answers)

    @property
    def is_learned(self) -> bool:
        """True if every row is answered correctly."""
        return bool(self.answers) and self.right == len(self.answers)


@dataclass(frozen=True)
class Control:
    """The training on exchanged answers, as a control."""

    rows: int
    """Rows whose answer was exchanged for another one."""
    own: int
    """Rows that were answered with their own answer although another one was learned."""
    learned: int
    """Rows that were answered with the exchanged answer."""
    steps: int


@dataclass(frozen=True)
class Certificate:
    """The verdict of `validate --learn`."""

    passed: bool
    rows: tuple[str, ...]
    """Places of the rows."""
    seconds: float
    trial: Trial | None
    """The training with the recipe's own settings."""
    control: Control | None = None
    cause: Cause | None = None
    further: tuple[Trial, ...] = ()
    """Trainings with other settings, from which the cause was concluded."""
    notes: tuple[str, ...] = ()
