"""Who watches a run: its stages, steps and warnings."""

from __future__ import annotations

from typing import Any, Protocol


class Observer(Protocol):
    """Who is told how a run goes."""

    def stage(self, text: str) -> None:
        """What happens now, such as `reading the data`."""

    def begin(self, step: int, steps: int) -> None:
        """Training begins after this step, of so many."""

    def step(self, step: int, tokens: int) -> None:
        """A step was done; tokens so far, padding not counted."""

    def logged(self, row: dict[str, Any]) -> None:
        """A row of `metrics.jsonl`."""

    def warn(self, text: str) -> None:
        """Something that the user should know."""


class SilentObserver:
    """Nobody is told."""

    def stage(self, text: str) -> None:
        """Ignored."""

    def begin(self, step: int, steps: int) -> None:
        """Ignored."""

    def step(self, step: int, tokens: int) -> None:
        """Ignored."""

    def logged(self, row: dict[str, Any]) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""
