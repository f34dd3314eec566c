"""`track`: reports a run to trackers after it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_ns.errors import Problem, UsageError
from lora_ns.machine.packages import check_trackers_installed
from lora_ns.run.directory import RunDir
from lora_ns.trackers import TRACKERS
from lora_ns.trackers.tracking import TrackerReport, send_missing


@dataclass(frozen=True)
class TrackResult:
    """The result of `lorans track`."""

    run: str
    trackers: tuple[TrackerReport, ...]

    @property
    def is_complete(self) -> bool:
        """Whether each tracker has all rows and how the run ended."""
        return all(report.is_closed and not report.missing for report in self.trackers)


def track(run: RunDir, names: Sequence[str], seconds: float, tell: Callable[[str], None]) -> TrackResult:
    """Send trackers the rows of a run that they lack, its status and its artefacts.

    Args:
        run: a run that is not in training.
        names: the trackers; those of the recipe if empty.
        seconds: how long to wait for them.
        tell: receives a warning for each tracker that fails.

    Raises:
        UsageError: if the run is in training, no tracker is named, or one is unknown.
        MissingError: if the package of a tracker is not installed.
    """
    wanted = tuple(dict.fromkeys(names)) or run.read().recipe.tracking.report_to
    if not wanted:
        what = "the recipe of this run names no tracker"
        raise UsageError(Problem(str(run.path), what, f"name one with `--to`: {', '.join(TRACKERS)}"))
    unknown = [
        Problem("--to", f"got `{name}`", f"expected one of: {', '.join(TRACKERS)}")
        for name in wanted
        if name not in TRACKERS
    ]
    if unknown:
        raise UsageError(unknown)
    check_trackers_installed(wanted)
    with run.held():
        return TrackResult(str(run.path), send_missing(run, wanted, seconds, tell))
