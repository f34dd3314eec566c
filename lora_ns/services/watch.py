"""Following runs by their files: what a live display shows, of a run of this machine or of another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem, UsageError
from lora_ns.files.reading import is_folder
from lora_ns.run.overview import Overview, number_in, overview, within
from lora_ns.run.paths import RunPaths
from lora_ns.run.tail import MetricsTail, last_warnings

MOST_FAILURES = 3
"""Looks in a row at which a manifest cannot be read, after which a run counts as ended: a shared disk may be slow."""


@dataclass(frozen=True)
class Seen:
    """A run as it is now."""

    overview: Overview
    losses: tuple[float, ...]
    """All training losses so far."""
    last: dict[str, Any]
    """The last value of every logged metric."""
    tokens_per_second: float | None
    memory_bytes: float | None
    """Peak memory, if it is logged."""
    planned_bytes: float | None
    """Memory by the plan."""
    warnings: tuple[str, ...]
    """The last warnings of the libraries."""
    is_over: bool

    @property
    def has_failed(self) -> bool:
        """True for a run that has ended without being finished."""
        return self.is_over and self.overview.status != "finished"


class Watched:
    """A run that is followed."""

    def __init__(self, path: Path) -> None:
        """Open the run directory. Raises `UsageError` if it is none."""
        if not is_folder(path):
            raise UsageError(Problem(str(path), "no such run directory", "name the `output_dir` of a run"))
        files = RunPaths(path)
        if not files.manifest_file.is_file():
            remedy = f"name the `output_dir` of a run; `lorans runs {path}` lists those below it"
            raise UsageError(Problem(str(path), "not a run directory: it has no manifest.json", remedy))
        self._path, self._files = path, files
        self._tail, self._losses, self._last = MetricsTail(files.metrics), list[float](), dict[str, Any]()
        self._clocks: list[tuple[float, float]] = []
        self._failures = 0

    def look(self) -> Seen:
        """Return the run as it is now."""
        self._follow()
        found = overview(self._path, measures_size=False)
        self._failures = self._failures + 1 if found.status == "damaged" else 0
        is_over = self._failures >= MOST_FAILURES if self._failures else not found.is_in_progress
        planned = within(found.manifest, "plan", "memory_bytes", "value")
        return Seen(
            found,
            tuple(self._losses),
            dict(self._last),
            self._speed(),
            next((number_in(self._last, key) for key in self._last if "memory" in key and "bytes" in key), None),
            float(planned) if isinstance(planned, (int, float)) else None,
            tuple(last_warnings(self._files.log)),
            is_over,
        )

    def _follow(self) -> None:
        rows, is_new = self._tail.read()
        if is_new:
            self._losses.clear()
            self._last.clear()
            self._clocks.clear()
        for row in rows:
            self._last |= row
            if (loss := number_in(row, "loss")) is not None:
                self._losses.append(loss)
            clock, tokens = number_in(row, "train_runtime"), number_in(row, "num_input_tokens_seen")
            if clock is not None and tokens is not None:
                self._clocks = [*self._clocks[-_WINDOW:], (clock, tokens)]

    def _speed(self) -> float | None:
        """Return the tokens per second of the last rows."""
        if not self._clocks:
            return None
        (first, before), (last, after) = self._clocks[0], self._clocks[-1]
        if last > first and after > before:
            return (after - before) / (last - first)
        return after / last if last > 0 and after else None


_WINDOW = 8
"""Number of rows over which the speed is measured."""


def watched(paths: Sequence[Path]) -> list[Watched]:
    """Open runs to follow. Raises `UsageError` with all that are none."""
    found: list[Watched] = []
    problems: list[Problem] = []
    for path in paths:
        try:
            found.append(Watched(path))
        except UsageError as error:
            problems += error.problems
    if problems:
        raise UsageError(problems)
    return found


def failed(seen: Iterable[Seen]) -> list[str]:
    """Return the runs that have ended without being finished."""
    return [one.overview.run for one in seen if one.has_failed]
