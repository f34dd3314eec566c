"""`lorans plan`: show every number that a run would use, and its origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lora_ns.cli.options import AsJson, Overrides, RecipePath
from lora_ns.cli.show import number, print_json
from lora_ns.cli.terminal import draw, is_terminal, say, wrapped
from lora_ns.safety.printable import readable

if TYPE_CHECKING:
    from rich.table import Table

    from lora_ns.plan.plan import Derived, Plan
    from lora_ns.recipe.load import LoadedRecipe

Wide = Annotated[bool, typer.Option("--wide", help="Print one line per value, without wrapping, as for a pipe.")]

ForGpu = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", help="Plan for other GPUs than those of this machine, such as `8xH100`."),
]


def plan(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    as_json: AsJson = False,
    wide: Wide = False,
    gpu: ForGpu = None,
) -> None:
    """Show every value that a run would use, and its origin. Nothing is run."""
    from lora_ns.recipe.load import load_recipe

    made = plan_of(load_recipe(recipe, overrides), gpu)
    if as_json:
        print_json(made.model_dump(mode="json"))
    elif wide or not is_terminal():
        _print_lines(made)
    else:
        _print_table(made)


UNKNOWN, NONE = "unknown", "none"


class _Line(NamedTuple):
    name: str
    value: str
    origin: str
    why: str

    @property
    def source(self) -> str:
        if self.value == UNKNOWN and self.why:
            return self.why
        return f"{self.origin}: {self.why}" if self.why else self.origin


def _lines(made: Plan) -> list[_Line]:
    derived = {name: getattr(made, name) for name in type(made).model_fields if name not in ("deepspeed", "notes")}
    return [_Line(name, _shown(name, value), value.origin, value.why) for name, value in derived.items()]


def _shown(name: str, derived: Derived[Any]) -> str:
    from lora_ns.plan.make import NO_EVALUATION

    if derived.value is None:
        return NONE if name == "rank" or derived.why == NO_EVALUATION else UNKNOWN
    if name in _UNITS:
        return _UNITS[name](derived.value)
    return number(derived.value)


_UNITS: Mapping[str, Callable[[float], str]] = {
    "memory_bytes": lambda value: f"{value / 1e9:.2f} GB",
    "disk_bytes": lambda value: f"{value / 1e9:.2f} GB",
    "duration_seconds": lambda value: f"{value / 3600:.1f} h" if value >= _HOUR else f"{value / 60:.1f} min",
    "energy_wh": lambda value: f"{value / 1000:.2f} kWh",
}
"""How values with units are written."""
_HOUR = 3600


def _print_lines(made: Plan) -> None:
    """Print one line per value, in columns that scripts can parse."""
    for line in _lines(made):
        say(f"{line.name:<28} {line.value:>12}  {line.origin}{f'  {line.why}' if line.why else ''}")
    if made.deepspeed:
        say(f"deepspeed {json.dumps(made.deepspeed, indent=2)}")
    for note in made.notes:
        say(f"note: {note}")


_STYLES = {"recipe": "cyan", "--set": "cyan", "accelerate_config": "cyan", "init_adapter": "cyan"}
"""Colours of origins that are the user's choices."""


def _print_table(made: Plan) -> None:
    """Print a table as wide as the terminal, with wrapped reasons."""
    draw(_table(_lines(made)))
    if made.deepspeed:
        say(f"deepspeed {json.dumps(made.deepspeed, indent=2)}")
    for note in made.notes:
        for line in wrapped(f"note: {note}", "", "      "):
            say(line)


def _table(lines: list[_Line]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", overflow="fold", max_width=18)
    table.add_column(overflow="fold", ratio=1)
    for line in lines:
        style = "yellow" if line.value == UNKNOWN else "bold"
        origin = Text(readable(line.source))
        if line.source.startswith(line.origin):
            origin.stylize(_STYLES.get(line.origin, "dim"), 0, len(line.origin))
        table.add_row(Text(line.name), Text(readable(line.value), style=style), origin)
    return table


def plan_of(loaded: LoadedRecipe, gpu: str | None = None) -> Plan:
    """Make the plan of a recipe, without downloading or tokenising.

    Args:
        loaded: the recipe.
        gpu: GPUs to plan for, such as `8xH100`; None for those of this machine.
    """
    from lora_ns.answers.teacher import find_teacher
    from lora_ns.data.known_rows import known_facts
    from lora_ns.data.named_files import check_named_files
    from lora_ns.machine.gpus import machine_with
    from lora_ns.machine.hardware import detect
    from lora_ns.model.find import recipe_base_here
    from lora_ns.model.published import published_base
    from lora_ns.plan.deepspeed import with_deepspeed
    from lora_ns.plan.make import make_plan
    from lora_ns.plan.settle import settle
    from lora_ns.recipe.load import locating

    check_named_files(loaded)
    with locating(loaded):
        base = recipe_base_here(loaded.recipe.model, loaded.folder) or published_base(loaded.recipe.model)
        here, facts = detect(), known_facts(loaded.recipe, loaded.folder)
        machine = machine_with(gpu, here) if gpu is not None else here
        teacher = find_teacher(loaded.recipe.objective, [loaded.folder, Path.cwd()], download=False)
        settled = settle(loaded, machine, base, teacher.size if teacher else None)
        return with_deepspeed(settled.recipe, settled.folder, make_plan(settled, machine, base, facts))
