"""The figures of several systems side by side, the verdicts on them, and the gates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_ns.cli.show import note, number, print_pairs
from lora_ns.cli.terminal import draw, is_terminal, say, say_coloured, say_wrapped
from lora_ns.safety.printable import readable

if TYPE_CHECKING:
    from lora_ns.services.gates import Gate
    from lora_ns.services.verdicts import Differing, Figure, Figures, SuiteReport

_MOST_COLUMNS = 4
"""Number of figures up to which each is a column."""

_COLOURS = {"better": "green", "worse": "red", "cannot tell": "yellow"}


def show_suites(reports: Sequence[SuiteReport], saved: str | None) -> None:
    """Show each suite: a table of systems and figures, and a line for each verdict.

    Args:
        reports: the suites.
        saved: the folder with all figures and answers.
    """
    for one in reports:
        if is_terminal():
            _draw(one)
        else:
            print_pairs(_pairs(one))
        for group, part in _parts(one):
            _say_verdicts(one, part, group and f" on {group}")
        _say_contaminated(one)
    if saved is not None and reports:
        say(f"figures and answers: {saved}")


def _say_contaminated(report: SuiteReport) -> None:
    """Say how many items are in the training rows, the deciding figure without them, and the verdicts on it."""
    if not report.contaminated:
        return
    held, name = f"{len(report.contaminated):,} of {report.whole.items:,}", report.deciding
    if report.clean is None:
        say_wrapped(f"all {report.whole.items:,} items are in the training rows", f"{report.name}: ", "  ")
        return
    figures = (
        f"{system} {shown_figure(figure, name in report.shares)}"
        for system, figure in report.clean.figures[name].items()
    )
    say_wrapped(f"{held} items are in the training rows; without them: {', '.join(figures)}", f"{report.name}: ", "  ")
    _say_verdicts(report, report.clean, " without them")


def _say_verdicts(report: SuiteReport, part: Figures, where: str) -> None:
    """Say the verdicts on the figure that decides; `where` names the part of the items."""
    for contest in part.contests:
        if contest.figure == report.deciding:
            say_verdict(f"{contest.system} against {contest.against}{where}", contest.reason)


def verdicts(reports: Sequence[SuiteReport]) -> Iterator[tuple[str, str]]:
    """Yield the verdicts on the figures that decide: the name of the suite, with a group if it is of one, and why."""
    for one in reports:
        for group, part in _parts(one):
            for contest in part.contests:
                if contest.figure == one.deciding:
                    yield one.name + (group and f" on {group}"), contest.reason


def _parts(report: SuiteReport) -> Iterator[tuple[str, Figures]]:
    yield "", report.whole
    yield from report.groups.items()


def _pairs(report: SuiteReport) -> list[tuple[str, str]]:
    """One line for each figure of each system."""
    return [
        (f"{report.name}.{name}{group and '/'}{group} {system}", shown_figure(figure, name in report.shares))
        for group, part in _parts(report)
        for name, by_system in part.figures.items()
        for system, figure in by_system.items()
    ]


def _draw(report: SuiteReport) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=readable(f"{report.name}, {report.whole.items:,} items"), title_justify="left", box=box.SIMPLE)
    columns, rows = _table(report)
    table.add_column("")
    for name in columns:
        table.add_column(readable(name), justify="right")
    for title, cells in rows:
        table.add_row(Text(readable(title)), *map(Text, cells))
    draw(table)


def _table(report: SuiteReport) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The columns of a table and its rows: one for each system, or with many figures one for each of these."""
    names, systems = list(report.whole.figures), list(report.whole.figures[report.deciding])
    if len(names) > _MOST_COLUMNS:
        return systems, [
            (f"{name} on {group}" if group else name, [_cell(report, part, name, system) for system in systems])
            for group, part in _parts(report)
            for name in part.figures
        ]
    return names, [
        (
            f"{system} on {group}, {part.items:,}" if group else system,
            [_cell(report, part, name, system) for name in part.figures],
        )
        for group, part in _parts(report)
        for system in systems
    ]


def _cell(report: SuiteReport, part: Figures, name: str, system: str) -> str:
    """A figure of a system; empty if it has none."""
    figure = part.figures[name].get(system)
    return "" if figure is None else shown_figure(figure, name in report.shares)


def shown_figure(figure: Figure, is_share: bool) -> str:
    """A figure with its 95 % interval, such as `94.0 % (87.5 to 97.2)`."""
    if math.isnan(figure.value):
        return number(figure.value)
    shown = f"{figure.value:.1%}".replace("%", " %") if is_share else number(figure.value)
    if figure.low is None or figure.high is None:
        return f"{shown} (too few items for an interval)"
    low, high = (f"{end * 100:.1f}" if is_share else number(end) for end in (figure.low, figure.high))
    return f"{shown} ({low} to {high})"


def say_verdict(about: str, reason: str) -> None:
    """Print what is compared and the verdict on it, coloured on a terminal."""
    verdict, _, rest = reason.partition(":")
    say_coloured([(readable(f"{about}: "), None), (verdict, _COLOURS.get(verdict)), (readable(f":{rest}"), None)])


def show_differences(items: Sequence[Differing]) -> None:
    """Show answers of two systems side by side."""
    for item in items:
        say()
        change = {"won": ", won", "lost": ", lost", "other": ""}[item.change]
        say_coloured([(readable(f"{item.suite}, {item.item}{change}"), "cyan")])
        if item.question is not None:
            say_wrapped(item.question, "  question: ", "    ")
        if item.expected is not None:
            say_wrapped(item.expected, "  expected: ", "    ")
        for system, answer in item.answers.items():
            say_wrapped(answer, f"  {system}: ", "    ")


def show_gates(gates: Sequence[Gate], as_json: bool) -> None:
    """Show the outcome of each gate; with JSON on standard output, failures go to standard error."""
    for gate in gates:
        if as_json:
            if not gate.passed:
                note(f"failed: {gate.told}")
            continue
        word, colour = ("passed", "green") if gate.passed else ("failed", "red")
        say_coloured([(word, colour), (readable(f": {gate.told}"), None)])
