"""`lorans track`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.options import AsJson
from lora_ns.cli.problems import print_problems
from lora_ns.cli.results import show_result
from lora_ns.cli.show import print_json
from lora_ns.errors import Problem

if TYPE_CHECKING:
    from lora_ns.trackers.tracking import TrackerReport


def track(
    run: Annotated[Path, typer.Argument(help="Run directory.", show_default=False)],
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Tracker to report to; can be repeated. Default: the recipe's.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1.0, help="Seconds to wait for the trackers.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Report a run to trackers after training: what they missed, or everything if they are new to it."""
    from lora_ns.run.directory import RunDir
    from lora_ns.services.track import track as send

    result = send(RunDir.open(run), to or [], timeout, lambda text: print_problems([Problem("", text, "")], "warning"))
    if as_json:
        print_json(result)
    else:
        show_result(str(run), [(report.tracker, _told(report)) for report in result.trackers])
    if not result.is_complete:
        raise typer.Exit(1)


def _told(report: TrackerReport) -> str:
    """What a tracker has of the run, and where."""
    missing = f", {report.missing:,} missing" if report.missing else ""
    state = "" if report.is_closed else ", not confirmed"
    return f"{report.rows:,} rows{missing}{state}; {report.place or 'not reached'}"
