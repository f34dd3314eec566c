"""Calibration of a reward model: do its probabilities agree with the share of pairs that it ranks right?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BINS = 10
"""Bins of equal width between a confidence of 0.5 and 1."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose confidence is between two bounds, the upper one excluded except for 1."""

    lowest: float
    highest: float
    pairs: int
    confidence: float | None = None
    """Mean confidence; None without pairs."""
    right: float | None = None
    """Share of pairs that are ranked right; None without pairs."""


@dataclass(frozen=True)
class Calibration:
    """Calibration of the probabilities that scores imply under the Bradley-Terry model.

    The model prefers the answer with the higher score, with a confidence of sigmoid(|margin|). It is right if that is
    the chosen answer; equal scores count as half right.
    """

    expected_calibration_error: float
    """Mean distance between confidence and share of right pairs over the bins, weighted by their pairs (Guo 2017)."""
    brier_score: float
    """Mean square of the probability of the rejected answer (Brier 1950): 0 is perfect, 0.25 the score of no model."""
    bins: tuple[ReliabilityBin, ...]


def calibration(margins: Sequence[float]) -> Calibration:
    """Measure the calibration of margins: for each pair, the score of the chosen answer minus the rejected one's."""
    groups: list[list[float]] = [[] for _ in range(BINS)]
    for margin in margins:
        confidence = _sigmoid(abs(margin))
        groups[min(BINS - 1, int((confidence - 0.5) * 2 * BINS))].append(margin)
    bins = tuple(_bin(number, group) for number, group in enumerate(groups))
    error = sum(one.pairs * abs(one.confidence - one.right) for one in bins if one.confidence and one.right is not None)
    brier = sum(_sigmoid(-margin) ** 2 for margin in margins)
    return Calibration(error / len(margins), brier / len(margins), bins)


def _bin(number: int, margins: Sequence[float]) -> ReliabilityBin:
    lowest, highest = (round(0.5 + place / (2 * BINS), 6) for place in (number, number + 1))
    if not margins:
        return ReliabilityBin(lowest, highest, 0)
    confidence = sum(_sigmoid(abs(margin)) for margin in margins) / len(margins)
    right = sum((margin > 0) + (margin == 0) / 2 for margin in margins) / len(margins)
    return ReliabilityBin(lowest, highest, len(margins), confidence, right)


def _sigmoid(value: float) -> float:
    """The logistic function, for any finite value."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))
