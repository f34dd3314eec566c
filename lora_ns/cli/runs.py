"""`lorans runs`: the runs below a folder as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson
from lora_ns.cli.show import note, print_json
from lora_ns.cli.terminal import draw, is_terminal, say, say_wrapped, width
from lora_ns.run.wording import TITLES, cells
from lora_ns.safety.printable import printable, readable

if TYPE_CHECKING:
    from lora_ns.run.overview import Overview
    from lora_ns.services.list_runs import Listing

RunsFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="Folder with runs in it or below it.", autocompletion=complete.folders_with_runs
    ),
]


Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Show only runs with this value of a column or a recipe key, such as status=finished, base=*qwen* or "
        "learning_rate>1e-4. Repeat it for more conditions.",
        show_default=False,
    ),
]


def runs(
    folder: RunsFolder = Path("outputs"),
    sort: Annotated[
        str,
        typer.Option("--sort", metavar="KEY", help="Column or recipe key to sort by; `-KEY` for descending order."),
    ] = "-created",
    filters: Filters = None,
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder and below it: status, progress, best metric, data, method, age and size."""
    from lora_ns.services.list_runs import list_runs

    listing = list_runs(folder, sort, filters or ())
    for text in listing.notes:
        note(text)
    if as_json:
        print_json({"folder": listing.folder, "found": listing.found, "runs": [as_table(run) for run in listing.runs]})
        return
    _show(listing)


def as_table(run: Overview) -> dict[str, Any]:
    """Return the values of an overview for JSON, without the manifest."""
    from dataclasses import asdict

    values = {one.name: getattr(run, one.name) for one in fields(run) if one.name != "manifest"}
    return {**values, "best": asdict(run.best) if run.best else None, "progress": run.progress}


def _show(listing: Listing) -> None:
    if not listing.runs:
        what = f"none of {listing.found:,} runs fits" if listing.found else "no runs"
        say_wrapped(f"{what} in {listing.folder} and below it")
        return
    names = names_of(listing.runs, Path(listing.folder))
    rows = [cells(run, name) for run, name in zip(listing.runs, names, strict=True)]
    if not is_terminal():
        _print(rows)
        return
    hidden = draw_table(rows)
    part = f"{len(listing.runs):,} of " if len(listing.runs) < listing.found else ""
    beside = f"; at this width without {', '.join(hidden)}" if hidden else ""
    say_wrapped(f"{part}{listing.found:,} run{'s' * (listing.found != 1)} in {listing.folder}{beside}")


def _print(rows: Sequence[Mapping[str, str]]) -> None:
    """Print all columns in full, for a pipe or a file."""
    listed = [
        {title: title for title in TITLES},
        *({key: printable(text) for key, text in row.items()} for row in rows),
    ]
    widths = {title: max(len(row[title]) for row in listed) for title in TITLES}
    for row in listed:
        say("  ".join(f"{row[title]:<{widths[title]}}" for title in TITLES).rstrip())


def draw_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Draw the columns that fit on the terminal, and return the names of the others."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    titles, widest = _fitting(rows, width())
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in titles:
        is_number = title in {"step", "age", "size"}
        table.add_column(title, justify="right" if is_number else "left", no_wrap=True, max_width=widest[title])
    for row in rows:
        shown = {title: printable(readable(row[title])) for title in titles}
        styles = {"status": COLOURS.get(row["status"], ""), "run": "bold"}
        table.add_row(
            *(Text(_cut(shown[title], widest[title], title), style=styles.get(title, "")) for title in titles)
        )
    draw(table)
    return [title for title in TITLES if title not in titles]


_NEEDED = ("run", "status", "step", "best", "age", "data", "method", "base", "size")
"""The columns, the most needed first."""


_MOST = {"run": 40, "data": 24, "base": 32, "best": 44, "step": 24}
"""Maximum widths of columns, in characters."""


_LEAST = 16
"""Width to which the names of runs may be cut to make room for other columns."""


def _fitting(rows: Sequence[Mapping[str, str]], room: int) -> tuple[list[str], dict[str, int]]:
    """Return the columns that fit into a width, in the order of the table, and the width of each."""
    widths = {
        title: min(_MOST.get(title, 20), max(len(title), *(len(printable(row[title])) for row in rows)))
        for title in TITLES
    }
    chosen: list[str] = []
    for title in _NEEDED:
        least = {**widths, "run": min(widths["run"], _LEAST)}
        if not chosen or sum(least[one] + 2 for one in (*chosen, title)) <= room:
            chosen.append(title)
    others = sum(widths[title] + 2 for title in chosen if title != "run")
    widths["run"] = max(_LEAST, min(widths["run"], room - others - 2))
    return [title for title in TITLES if title in chosen], widths


def _cut(text: str, most: int, title: str) -> str:
    """Shorten a text with an ellipsis; the end of a run's name and of a path is what tells them apart."""
    if len(text) <= most:
        return text
    return f"…{text[len(text) - most + 1 :]}" if title in {"run", "base"} else f"{text[: most - 1]}…"


def names_of(found: Sequence[Overview], folder: Path) -> list[str]:
    """Return the paths of runs relative to the folder that was searched."""
    paths = [Path(run.run) for run in found]
    return [str(path.relative_to(folder)) if path != folder else path.name for path in paths]


COLOURS: Mapping[str, str] = {
    "running": "cyan",
    "started": "cyan",
    "finished": "green",
    "failed": "red",
    "damaged": "red",
    "killed": "red",
    "interrupted": "yellow",
}
