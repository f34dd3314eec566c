"""How far plans of memory were from what runs took, as a band around the next plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 3
"""Runs from which a machine has a band of its own."""

_LEAST = 0.03
"""Distance from 1 that a band has at least, since a few equal runs say little about others."""


@dataclass(frozen=True)
class Band:
    """Measured memory over planned memory, at least and at most."""

    low: float
    high: float
    runs: int
    """Runs of this machine that it comes from; 0 for the published band."""

    def around(self, planned: int) -> tuple[int, int]:
        """Return the bytes that a run is expected to take, at least and at most."""
        return round(planned * self.low), round(planned * self.high)


PUBLISHED = Band(0.85, 1.15, runs=0)
"""The band of nearly all runs of docs/memory.md."""


def band(pairs: Sequence[tuple[int, int]]) -> Band:
    """Return the band of a machine from its runs.

    Args:
        pairs: planned and measured bytes of each run.

    Returns:
        The smallest and the largest ratio, without one run in ten at each end; the published band for fewer than
        `FEWEST` runs.
    """
    ratios = sorted(measured / planned for planned, measured in pairs if planned > 0 and measured > 0)
    if len(ratios) < FEWEST:
        return PUBLISHED
    aside = len(ratios) // 10
    inner = ratios[aside : len(ratios) - aside]
    return Band(min(inner[0], 1 - _LEAST), max(inner[-1], 1 + _LEAST), len(ratios))
