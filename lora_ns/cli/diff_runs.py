"""`lorans diff`: what differs between runs, and what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson
from lora_ns.cli.runs import as_table, draw_table
from lora_ns.cli.show import note, number, print_json, sparkline
from lora_ns.cli.terminal import draw, is_terminal, say, say_coloured, say_wrapped
from lora_ns.run.wording import TITLES, cells
from lora_ns.safety.printable import printable, readable

if TYPE_CHECKING:
    from lora_ns.report.curves import Curves
    from lora_ns.services.diff_runs import RunsDiff

RunPaths = Annotated[
    list[Path],
    typer.Argument(metavar="RUN RUN ...", help="Run directories, two or more.", autocompletion=complete.run_folders),
]


def diff(
    runs: RunPaths,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with overlaid curves.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: recipes, data, versions, machines, curves, and figures on the same items with a paired test."""
    from lora_ns.services.diff_runs import diff_runs

    found = diff_runs(runs)
    if html is not None:
        from lora_ns.files.disk import write_atomic
        from lora_ns.services.compare_page import document

        write_atomic(html, document(found))
    for text in found.notes:
        note(text)
    if as_json:
        print_json(_as_json(found))
        return
    _show(found)
    if html is not None:
        say(f"page: {html}")


MOST_POINTS = 500
"""Number of points of a curve in JSON."""


def _as_json(found: RunsDiff) -> dict[str, Any]:
    from lora_ns.report.curves import thin

    parts = ("recipe", "data", "versions", "machine", "metrics")
    curves = [
        {name: thin(series, MOST_POINTS).as_table() for name, series in one.series.items()} for one in found.curves
    ]
    return {
        "names": found.names,
        "runs": [as_table(run) for run in found.runs],
        **{part: [asdict(row) for row in getattr(found, part)] for part in parts},
        "curves": curves,
        "notes": found.notes,
    }


def _show(found: RunsDiff) -> None:
    from lora_ns.services.compare_page import figure, shown_values, verdicts

    rows = [cells(run, name) for run, name in zip(found.runs, found.names, strict=True)]
    if is_terminal():
        draw_table(rows)
    else:
        _print_table([TITLES[:4], *([row[title] for title in TITLES[:4]] for row in rows)])
    parts = (("recipe", found.recipe), ("data", found.data), ("versions", found.versions), ("machine", found.machine))
    for title, differing in parts:
        _section(title, found.names, [[row.key, *shown_values(row)] for row in differing])
    _show_curves(found.names, found.curves)
    measured = [[row.name, *(figure(row, place) for place in range(len(found.names)))] for row in found.metrics]
    _section("figures", found.names, measured)
    for told in verdicts(found):
        say_wrapped(told, "  ", "    ")


def _section(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    say()
    say_coloured([(title, "cyan"), ("" if rows else ": no difference", None)])
    if not rows:
        return
    if is_terminal():
        _draw(names, rows)
    else:
        _print_table([("", *names), *rows])


def _draw(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", *names):
        table.add_column(Text(printable(readable(name))), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(readable(cell))) for cell in row))
    draw(table)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns, in full."""
    listed = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in listed) for place in range(len(listed[0]))]
    for row in listed:
        say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


_BARS = 32
"""Characters of a curve on the terminal."""


def _show_curves(names: Sequence[str], curves: Sequence[Curves]) -> None:
    """Draw the losses of all runs, on one scale for each kind."""
    for key in ("loss", "eval_loss", "reward"):
        rows = [(name, one[key].finite) for name, one in zip(names, curves, strict=True) if len(one[key].finite)]
        if not rows:
            continue
        say()
        say_coloured([(key, "cyan")])
        low, high = (end(value for _, series in rows for value in series.values) for end in (min, max))
        width = max(len(printable(name)) for name, _ in rows)
        for name, series in rows:
            drawn = sparkline(pooled(series.values, _BARS), low, high)
            told = f"{number(float(series.values[0]))} -> {number(float(series.last))}"
            say(f"{printable(name):<{width}}  {drawn:<{_BARS}}  {told} at step {series.steps[-1]:,}")


def pooled(values: Sequence[float], count: int) -> list[float]:
    """Return the means of `count` parts of a series, in order; fewer for a short one."""
    if len(values) <= count:
        return list(values)
    ends = [round(place * len(values) / count) for place in range(count + 1)]
    return [sum(values[begin:end]) / (end - begin) for begin, end in itertools.pairwise(ends)]
