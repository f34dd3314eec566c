"""What an objective measures of a run by itself, as figures and item by item."""

from __future__ import annotations

from dataclasses import dataclass, field

from lora_ns.objectives.calibration import Calibration
from lora_ns.services.evaluate_suites import BASE_NAME, Answered


@dataclass(frozen=True)
class Measured:
    """The metrics of an objective, and the items that they are made of."""

    metrics: dict[str, float] = field(default_factory=dict)
    truncated: int = 0
    """Number of rows that were cut off at `max_seq_length`."""
    answered: tuple[Answered, ...] = ()
    """The items; empty if the objective measures none."""
    reference: str = BASE_NAME
    """Name of the system that others are compared with on these items."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Metrics of the constant answer that was best on the training rows."""
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    """Calibration of a reward model."""
