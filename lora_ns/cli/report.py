"""`lorans report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.options import AsJson, RunPath
from lora_ns.cli.results import show_result
from lora_ns.cli.show import note, number, print_json


def report(
    run: RunPath,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="HTML file to write; default: report.html in the run.",
            show_default=False,
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            "--plots", metavar="FOLDER", help="Folder to write each plot to, as PNG and SVG.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report: one HTML page that needs no network, and its facts as JSON beside it.

    The page has the verdict, the curves, the first training rows with their loss mask, the data, the answers before and
    after, the proofs, the recipe and the environment. Every run writes it at its end, too. A running run can be
    reported on at any time.
    """
    from lora_ns.run.directory import RunDir
    from lora_ns.services.report import report as write_report

    result = write_report(RunDir.open_to_use(run, note), output, plots)
    if as_json:
        print_json(result)
        return
    for told in result.notes:
        note(told)
    show_result(
        "report",
        [
            ("verdict", result.verdict),
            ("page", f"{result.page} ({number(result.bytes / 1000)} kB)"),
            ("facts", result.facts),
            *([("plots", f"{number(len(result.plots))} files in {plots}")] if result.plots else []),
        ],
    )
