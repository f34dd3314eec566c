"""How the memory of a plan is shown: its terms as bars, and what would make it fit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lora_ns.cli.terminal import say, say_wrapped

if TYPE_CHECKING:
    from rich.table import Table

    from lora_ns.plan.cuts import Fit, Proposal
    from lora_ns.plan.plan import Plan

_WIDTH = 32
"""Characters of the longest bar."""
_LEAST_SHARE = 0.005
"""Terms below this share of the estimate are added up as `other`."""


def gigabytes(size: int) -> str:
    """A size as the plan shows it, such as `2.20 GB`."""
    return f"{size / 1e9:.2f} GB"


def memory_terms(plan: Plan) -> Iterator[tuple[str, int]]:
    """The terms of the estimate that take memory, the largest first."""
    yield from sorted(((name, size) for name, size in plan.memory.items() if size), key=lambda term: -term[1])


def memory_bars(plan: Plan, free: int | None) -> Table:
    """The terms of the estimate as bars, and their total against what is free in each process."""
    from rich.table import Table
    from rich.text import Text

    total = sum(plan.memory.values())
    longest = max(total, free or 0, 1)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, width=_WIDTH)
    small = [size for _, size in memory_terms(plan) if size < _LEAST_SHARE * total]
    large = [(name, size) for name, size in memory_terms(plan) if size >= _LEAST_SHARE * total]
    for name, size in [*large, *([("other", sum(small))] if small else [])]:
        table.add_row(Text(f"  {name}", style="dim"), Text(gigabytes(size)), Text(_bar(size, longest), style="cyan"))
    style = "red" if free and total > free else "green"
    table.add_row(Text("memory", style="bold"), Text(gigabytes(total), style="bold"), Text(_bar(total, longest), style))
    if free:
        table.add_row(Text("free"), Text(gigabytes(free)), Text(_bar(free, longest), style="dim"))
    return table


_EIGHTHS = " ▏▎▍▌▋▊▉"


def _bar(size: int, longest: int) -> str:
    eighths = max(1, round(size / longest * _WIDTH * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def fit_table(fit: Fit) -> dict[str, Any]:
    """A fit for `--json`."""
    return {**asdict(fit), "fits": fit.fits}


def print_fit(fit: Fit) -> None:
    """Print whether a plan fits, and the cheapest changes that make it fit."""
    size, usable = gigabytes(fit.size_bytes), gigabytes(fit.usable_bytes)
    if fit.fits:
        room = gigabytes(fit.usable_bytes - fit.memory_bytes)
        say_wrapped(f"fits in {size}: {gigabytes(fit.memory_bytes)} of {usable} that a plan may use, {room} to spare")
        return
    say_wrapped(f"does not fit in {size}: {gigabytes(fit.memory_bytes)}, and a plan may use {usable} of it")
    if fit.smallest:
        say_wrapped("no change of the recipe was found that makes it fit; the smallest plan is:")
        _print_proposal("-", fit.smallest)
    elif not fit.proposals:
        say_wrapped("no change of the recipe was found that needs less")
    for number, proposal in enumerate(fit.proposals, start=1):
        _print_proposal(f"{number}.", proposal)


def _print_proposal(mark: str, proposal: Proposal) -> None:
    said = "; ".join(proposal.costs)
    about = f"about {proposal.step_time:.2g} times the time of a step"
    say_wrapped(f"{gigabytes(proposal.memory_bytes)}, {about}: {said}", f"{mark} ", "   ")
    say("   " + " ".join(f"--set {shlex.quote(override)}" for override in proposal.overrides))
