"""What a trial has measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["finished", "pruned", "diverged", "refused", "failed"]
"""How a trial ended: trained to the end, stopped because others are better or because its loss broke, refused by the
rules of recipes, the plan or the libraries, or ended by another error."""

RowLosses = tuple[tuple[float, int], ...]
"""The loss of each evaluation row, a mean over its tokens or labels, and the number of these."""


@dataclass(frozen=True)
class Measured:
    """The figures of one trial."""

    state: State
    reason: str = ""
    """The reason for a state other than `finished`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the last evaluation."""
    first_loss: float | None = None
    """The evaluation loss before the first step."""
    curve: tuple[tuple[int, float], ...] = ()
    """Steps with the evaluation loss after each."""
    steps: int = 0
    tokens: int = 0
    """Tokens trained on, without padding."""
    seconds: float = 0.0
    row_losses: RowLosses = ()
    """Only of a finished trial, and only if the loss of a row does not depend on others."""

    @property
    def loss(self) -> float | None:
        """The last evaluation loss."""
        return self.curve[-1][1] if self.curve else None

    @classmethod
    def of(cls, table: dict[str, Any]) -> Measured:
        """Measurements as they were written to a file. Raises `ValueError`, `KeyError` or `TypeError` for others."""
        pairs = {name: tuple((one, two) for one, two in table[name]) for name in ("curve", "row_losses")}
        return cls(**{**table, **pairs})
