"""`lorans watch`: runs as they train, followed by their files."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.diff_runs import pooled
from lora_ns.cli.options import AsJson
from lora_ns.cli.runs import COLOURS, as_table
from lora_ns.cli.show import number, print_json, print_pairs, sparkline
from lora_ns.cli.terminal import draw, is_terminal, say, width
from lora_ns.run import wording
from lora_ns.safety.printable import printable, readable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lora_ns.services.watch import Seen, Watched

RunPaths = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="Run directories, one or more.", autocompletion=complete.run_folders),
]


def watch(
    runs: RunPaths,
    once: Annotated[bool, typer.Option("--once", help="Print the state once and exit, as without a terminal.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.2, max=3600.0, help="Seconds between two looks.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Follow runs as they train, on this machine or on a shared disk: loss, metrics, speed, time left, warnings.

    Ends when the runs have ended: exit code 1 if one of them did not finish. Ctrl-C ends the display, not the runs.
    """
    from lora_ns.services.watch import failed, watched

    followed = watched(runs)
    seen = [one.look() for one in followed]
    if not once and not as_json and is_terminal():
        seen = _follow(followed, seen, interval)
    elif as_json:
        print_json({"runs": [_as_json(one) for one in seen]})
    else:
        for place, one in enumerate(seen):
            say() if place else None
            print_pairs(pairs(one))
    if failed(seen):
        raise typer.Exit(1)


def _as_json(one: Seen) -> dict[str, Any]:
    finite = {key: value for key, value in one.last.items() if not isinstance(value, float) or math.isfinite(value)}
    values = {"last": finite, "warnings": one.warnings, "is_over": one.is_over}
    speed = {"tokens_per_second": one.tokens_per_second, "memory_bytes": one.memory_bytes}
    return {**as_table(one.overview), **speed, "planned_bytes": one.planned_bytes, **values}


def _follow(followed: Sequence[Watched], seen: list[Seen], interval: float) -> list[Seen]:
    """Show the runs until all have ended, and leave the last state on the terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        live = Live(console=console, auto_refresh=False, transient=True)
        while not all(one.is_over for one in seen):
            if not live.is_started:
                stack.enter_context(live)
            live.update(_picture(seen, console.height), refresh=True)
            time.sleep(interval)
            seen = [one.look() for one in followed]
    draw(_picture(seen))
    return seen


_ROWS_OF_PANEL = 9
"""Lines that a run takes at most."""


def _picture(seen: Sequence[Seen], height: int = 10_000) -> RenderableType:
    """Return a panel for each run; only its head where there is no room for all."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    is_short = len(seen) * _ROWS_OF_PANEL > height
    panels = []
    for one in seen:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, style="bold")
        grid.add_column(overflow="fold")
        for name, value in pairs(one)[1 : 3 if is_short else None]:
            grid.add_row(name, Text(printable(readable(value))))
        colour = COLOURS.get(one.overview.status, "")
        title = Text(printable(readable(one.overview.run)))
        panels.append(Panel(grid, title=title, title_align="left", border_style=colour, expand=True))
    return Group(*panels)


_SHOWN_ELSEWHERE = frozenset(
    {"step", "loss", "epoch", "total_flos", "num_tokens", "num_input_tokens_seen", "train_loss", "padding"}
)


MOST_METRICS = 6


def pairs(one: Seen) -> list[tuple[str, str]]:
    """Return the state of a run as names and values, the run itself first."""
    found, last = one.overview, one.last
    listed = [("run", found.run), ("status", _status(one))]
    if one.losses:
        bars = sparkline(pooled(one.losses, max(16, min(60, width() - 40))))
        listed.append(("loss", f"{number(one.losses[-1])}  {bars}"))
    if found.best is not None:
        at = f" at step {found.best.step:,}" if found.best.step else ""
        listed.append(("best", f"{wording.best(found.best)}{at}"))
    metrics = [f"{name} {number(value)}" for name, value in _metrics(last)[:MOST_METRICS]]
    listed += [("metrics", ", ".join(metrics))] if metrics else []
    speed = [f"{one.tokens_per_second:,.0f} tokens/s"] if one.tokens_per_second else []
    if one.memory_bytes is not None:
        speed.append(f"peak memory {wording.size(int(one.memory_bytes))}")
    if one.planned_bytes is not None:
        speed.append(f"planned memory {wording.size(int(one.planned_bytes))}")
    listed += [("speed", ", ".join(speed))] if speed else []
    listed += [("error", found.error)] if found.error else []
    listed += [("note", text) for text in found.notes]
    return [*listed, *(("warning", text[:_LONGEST_WARNING]) for text in one.warnings)]


_LONGEST_WARNING = 120


def _status(one: Seen) -> str:
    found = one.overview
    epoch = f", epoch {number(one.last['epoch'])}" if isinstance(one.last.get("epoch"), (int, float)) else ""
    done = f" ({found.progress:.0%})".replace("%", " %") if found.progress is not None and found.step else ""
    return f"{found.status}, step {wording.steps(found)}{done}{epoch}"


_NO_FIGURES = ("_runtime", "_per_second", "num_tokens", "entropy", "memory_bytes")


def _metrics(last: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the metrics that matter: held-out ones first, then those of the objective, then rate and gradient."""
    named = [
        (str(name), float(value))
        for name, value in last.items()
        if isinstance(value, (int, float)) and name not in _SHOWN_ELSEWHERE
        and not str(name).endswith(_NO_FIGURES) and not str(name).startswith(("eval_log", "log"))
    ]  # fmt: skip
    return sorted(named, key=lambda pair: (not pair[0].startswith("eval_"), not pair[0].startswith("reward")))
