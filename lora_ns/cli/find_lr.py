"""`lorans find-lr`: search the learning rate of a recipe by short trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.options import AsJson, Overrides, RecipePath, TrustRemoteCode
from lora_ns.cli.show import Progress, duration, note, print_json, print_pairs
from lora_ns.cli.terminal import draw, say

if TYPE_CHECKING:
    from rich.table import Table

    from lora_ns.services.sweep.find_lr import FoundRate

Write = Annotated[bool, typer.Option("--write", help="Write the rate into the recipe; the rest of the file stays.")]

NoCache = Annotated[bool, typer.Option("--no-cache", help="Tokenise again, without reading or writing the cache.")]


def find_lr(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    write: Write = False,
    no_cache: NoCache = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Search the learning rate of a recipe by short trainings on its own rows.

    Candidates around the rate that the width of the base suggests train for a
    sixteenth of the steps, the best for an eighth, on one base in memory. The
    result is the best rate for the whole recipe, with its interval and its cost.
    """
    from lora_ns.cli.trust import trust_recipe
    from lora_ns.machine.libraries import Noise
    from lora_ns.recipe.load import load_recipe
    from lora_ns.services.sweep.find_lr import find_lr as service

    trust_recipe(trust_remote_code, load_recipe(recipe, overrides))
    with Progress(2) as progress, Noise():
        found = service(recipe, overrides, progress, write, not no_cache)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: FoundRate) -> None:
    draw(_table(found))
    say()
    print_pairs(
        [
            ("learning rate", f"{found.rate:g} (95 % interval {found.interval.low:g} to {found.interval.high:g})"),
            ("recipe", f"{found.current:g}"),
            ("prior", f"{found.prior:g}, from the method, the task and the width of the base"),
            (
                "cost",
                f"{found.tokens:,} tokens in {duration(found.seconds)}: {found.share:.0%} of one training of "
                f"{found.run_steps:,} steps, {found.share / 12:.1%} of a grid of twelve",
            ),
        ]
    )
    for text in found.notes:
        note(text)
    if found.written:
        say(f"written into {found.written}")


def _table(found: FoundRate) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("learning rate", "steps", "held-out loss"):
        table.add_column(name, justify="right")
    lowest = {
        steps: min((one.loss for one in found.candidates if one.steps == steps and one.loss is not None), default=None)
        for steps in {one.steps for one in found.candidates}
    }
    for one in found.candidates:
        loss = "diverged" if one.loss is None else f"{one.loss:.4f}"
        is_best = one.loss is not None and one.loss == lowest[one.steps]
        table.add_row(f"{one.rate:g}", f"{one.steps:,}", loss, style="green" if is_best else "")
    return table
