"""`report`: a run as one page and as facts for programs, also written at the end of every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import LoransError, Problem, UsageError
from lora_ns.files.disk import telling_disk_errors, write_atomic
from lora_ns.files.reading import is_folder
from lora_ns.files.strict_json import strict_json
from lora_ns.report.charts import all_plots
from lora_ns.report.facts import Facts, gather
from lora_ns.report.plots import write
from lora_ns.report.sections import page
from lora_ns.report.verdict import State
from lora_ns.run.directory import RunDir


@dataclass(frozen=True)
class ReportResult:
    """A report that was written."""

    run: str
    state: State
    verdict: str
    """The verdict as a sentence."""
    page: str
    """Path of the HTML file."""
    facts: str
    """Path of the JSON file."""
    bytes: int
    """Size of the page."""
    plots: tuple[str, ...] = ()
    """Paths of the plots, if they were asked for."""
    notes: tuple[str, ...] = ()
    """What could not be read."""


def report(run: RunDir, output: Path | None = None, plots: Path | None = None) -> ReportResult:
    """Write the report of a run: the page, the facts beside it, and each plot as PNG and SVG if a folder is named.

    Args:
        run: the run directory.
        output: the page to write, whose name ends with `.html`; by default `report.html` in the run.
        plots: the folder for the plots.

    Raises:
        UsageError: if the manifest cannot be read, or a path names something else.
        MissingError: if matplotlib is not installed.
        RunError: if something cannot be written.
    """
    _check(output, plots)
    found = gather(run)
    target, facts = _write(found, output or run.report)
    files: list[str] = []
    if plots is not None:
        with telling_disk_errors(plots):
            plots.mkdir(parents=True, exist_ok=True)
        for plot in all_plots(found):
            for suffix in (".png", ".svg"):
                write(plot, plots / f"{plot.key}{suffix}")
                files.append(str(plots / f"{plot.key}{suffix}"))
    verdict = found.verdict
    size = target.stat().st_size
    return ReportResult(
        str(run.path), verdict.state, verdict.sentence, str(target), str(facts), size, tuple(files), tuple(found.notes)
    )


def _check(output: Path | None, plots: Path | None) -> None:
    if output is not None and output.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(Problem("--output", f"`{output}` is no HTML file", "write a name such as report.html"))
    if output is not None and is_folder(output):
        raise UsageError(Problem("--output", f"`{output}` is a folder", "write a name such as report.html"))
    if plots is not None and plots.exists() and not is_folder(plots):
        raise UsageError(Problem("--plots", f"`{plots}` is no folder", "name a folder"))


def _write(found: Facts, target: Path) -> tuple[Path, Path]:
    facts = target.with_suffix(".json")
    write_atomic(target, page(found))
    write_atomic(facts, strict_json(found.as_table()) + "\n")
    return target, facts


def report_at_end(run: RunDir, tell: Callable[[str], None]) -> None:
    """Write the report of a run that has ended. One that cannot be written is a warning for `tell`, and no error."""
    try:
        run.check_there()
        _write(gather(run), run.report)
    except (LoransError, OSError) as error:
        tell(f"no report was written: {error}")
    except Exception as error:  # a page about a run must not make it fail
        tell(f"no report was written: {type(error).__name__}: {error}; please report this")
