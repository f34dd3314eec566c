"""The result of a command: a panel on a terminal, pairs of name and value in a pipe or a file."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.cli.show import beside_baseline, note, number, print_json, print_pairs
from lora_ns.cli.terminal import draw, is_terminal, say, say_coloured
from lora_ns.cli.verdicts import verdicts
from lora_ns.safety.printable import readable

if TYPE_CHECKING:
    from lora_ns.objectives.calibration import Calibration
    from lora_ns.run.manifest import SealRecord
    from lora_ns.services.after_training import JudgedTraining
    from lora_ns.services.evaluate import EvaluateResult
    from lora_ns.services.verdicts import SuiteReport


def show_result(title: str, pairs: Iterable[tuple[str, str]], commands: Sequence[str] = ()) -> None:
    """Show the last lines of a command on standard output.

    Args:
        title: the heading of the panel.
        pairs: names and values.
        commands: command lines to run next; each stands alone on a line, so that it can be copied.
    """
    if not is_terminal():
        print_pairs(pairs)
    else:
        draw_panel(title, ([(name, "bold"), (value, "")] for name, value in pairs))
    if commands:
        say("next:")
        for command in commands:
            say_coloured([(f"  {command}", "cyan")])


def draw_panel(title: str, rows: Iterable[Sequence[tuple[str, str]]], colour: str = "green") -> None:
    """Draw a panel of rows in columns on the terminal. Only the last column wraps.

    Args:
        title: the heading of the panel.
        rows: rows of cells, each a text with its style; all rows have the same number of cells.
        colour: colour of the border.
    """
    from rich import box
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    listed = list(rows)
    grid = Table.grid(padding=(0, 2))
    for _ in listed[0][1:]:
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in listed:
        grid.add_row(*(Text(readable(text), style=style) for text, style in row))
    draw(Panel(grid, title=title, title_align="left", box=box.ROUNDED, border_style=colour, expand=False))


def show_training(result: JudgedTraining, as_json: bool, takes_text: bool = True) -> None:
    """Show the result of a training: its measurements, its place, the adapter check, and the commands that follow.

    Args:
        result: the result.
        as_json: print JSON instead.
        takes_text: True if the model answers a single text; a reward model scores rows with an answer.
    """
    if as_json:
        print_json(result)
        return
    for told in result.notes:
        note(told)
    run, rows = shlex.quote(result.run), '--input "..."' if takes_text else "--input-file rows.jsonl"
    show_result(
        "trained",
        [
            ("run", result.run),
            ("adapter", result.adapter),
            ("steps", number(result.steps)),
            ("trained parameters", number(result.trainable_parameters)),
            *_end(result),
            *_adapter_check(result.seal),
            *measurements(result.metrics, _shares(result.suites)),
            *((f"verdict on {about}", reason) for about, reason in verdicts(result.suites)),
            *([("figures and answers", result.saved)] if result.saved else []),
            *([("lineage", result.lineage)] if result.lineage else []),
        ],
        [f"lorans infer {run} {rows}", f"lorans merge {run} --output merged"],
    )


def _end(result: JudgedTraining) -> Iterator[tuple[str, str]]:
    """Describe why training ended early, and which weights were saved."""
    if result.ended:
        yield "ended", result.ended
    if (best := result.best) is None:
        return
    found = f"step {best.step:,} (eval_{best.metric} {best.value:.4g})"
    if result.adapter_step == best.step:
        yield "best", f"{found}; it is the adapter"
    else:
        yield "best", f"{found}; `--checkpoint best` uses it, the adapter is that of step {result.adapter_step:,}"


def _adapter_check(seal: SealRecord | None) -> list[tuple[str, str]]:
    """Describe how the saved adapter answers once it is reloaded on a fresh base."""
    if seal is None:
        return []
    match = f"reloaded logits match on {seal.rows} rows"
    if seal.largest_difference:
        match += f" within {seal.largest_difference:.1e}"
    if seal.adapter_effect is not None:
        match += f"; the adapter changes the base's logits by {seal.adapter_effect:.2g} of the largest"
    return [("adapter check", f"passed ({match})")]


def show_evaluation(result: EvaluateResult, as_json: bool) -> None:
    """Show the result of an evaluation: its measurements, and notes about them on standard error."""
    if as_json:
        print_json(result)
        return
    for told in result.notes:
        note(told)
    baseline = {f"baseline/{name}": value for name, value in result.baseline.items()}
    measured = measurements({**result.metrics, **baseline})
    show_result("evaluation", [("rows", number(result.rows)), *measured, *_calibration(result.calibration)])


def _calibration(found: Calibration | None) -> list[tuple[str, str]]:
    """List the calibration of a reward model, with the share of right pairs for each confidence."""
    if found is None:
        return []
    bins = [
        f"{one.right:.0%} right of {one.pairs:,} at {one.confidence:.0%}"
        for one in found.bins
        if one.confidence is not None
    ]
    return [
        ("calibration error", number(found.expected_calibration_error)),
        ("brier score", number(found.brier_score)),
        ("by confidence", ", ".join(bins)),
    ]


def _shares(reports: Sequence[SuiteReport]) -> set[str]:
    """The names in the metrics of those figures that are shares."""
    return {f"{one.name}.{name}" for one in reports for name in one.shares}


def measurements(metrics: dict[str, Any], shares: Collection[str] = ()) -> list[tuple[str, str]]:
    """List each measure on one line, before and after training; `shares` are those to show in percent."""
    rows = []
    names = [name.removeprefix("before/") for name in metrics if not name.startswith("baseline/")]
    for name in dict.fromkeys(names):
        before, after = metrics.get(f"before/{name}"), metrics.get(name)
        if after is None:
            rows.append(
                (name, f"{_measured(name, metrics[f'before/{name}'], shares)} before training, not measured after it")
            )
        else:
            shown = _measured(name, after, shares)
            shown = shown if before is None else f"{_measured(name, before, shares)} -> {shown}"
            rows.append((name, beside_baseline(shown, metrics.get(f"baseline/{name}"))))
    return rows


def _measured(name: str, value: float, shares: Collection[str]) -> str:
    if name.endswith("_bytes"):
        return f"{value / 1e9:.2f} GB"
    is_share = name.startswith("exact_match") or name.partition("/")[0] in shares
    return f"{value:.1%}" if is_share else number(float(value))
