"""`lorans plan`: show every number that a run would use, and its origin."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lora_ns.cli.memory_bars import fit_table, gigabytes, memory_bars, memory_terms, print_fit
from lora_ns.cli.options import AsJson, Overrides, RecipePath
from lora_ns.cli.show import number, print_json
from lora_ns.cli.terminal import draw, is_terminal, say, wrapped
from lora_ns.errors import Problem, UsageError
from lora_ns.safety.printable import readable

if TYPE_CHECKING:
    from rich.table import Table

    from lora_ns.machine.hardware import Machine
    from lora_ns.model.files import Base
    from lora_ns.model.published import PublishedBase
    from lora_ns.plan.cuts import Fit
    from lora_ns.plan.plan import DataFacts, Derived, Plan
    from lora_ns.plan.settled import TeacherSize
    from lora_ns.plan.speed import Measured
    from lora_ns.recipe.load import LoadedRecipe

FitSize = Annotated[
    str | None,
    typer.Option(
        "--fit",
        metavar="SIZE",
        help="Plan for devices with so much free memory, such as 24GB; if the run does not fit, show what would.",
        show_default=False,
    ),
]
Wide = Annotated[bool, typer.Option("--wide", help="Print one line per value, without wrapping, as for a pipe.")]

ForGpu = Annotated[
    str | None,
    typer.Option("--gpu", metavar="NAME", help="Plan for other GPUs than those of this machine, such as `8xH100`."),
]

Measure = Annotated[
    bool,
    typer.Option("--measure", help="Train a few steps in a temporary folder, and plan with their memory and speed."),
]


def plan(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    as_json: AsJson = False,
    wide: Wide = False,
    gpu: ForGpu = None,
    fit: FitSize = None,
    measure: Measure = False,
) -> None:
    """Show every value that a run would use, and its origin. Nothing is run, but a few steps with `--measure`."""
    from lora_ns.machine.gpus import machine_with
    from lora_ns.machine.hardware import detect
    from lora_ns.plan.fit import free_memory, with_free_memory
    from lora_ns.plan.processes import count_here
    from lora_ns.recipe.load import load_recipe

    if measure and (gpu is not None or fit is not None):
        what = "`--measure` says what a run takes on this machine as it is"
        raise UsageError(Problem("--measure", what, "leave `--gpu` and `--fit` out"))
    size = None if fit is None else _size(fit)
    loaded = load_recipe(recipe, overrides)
    machine = detect() if gpu is None else machine_with(gpu, detect())
    machine = machine if size is None else with_free_memory(machine, size)
    known = known_for(loaded, gpu is not None)
    made, free = (
        planned_for(loaded, machine, known),
        free_memory(machine, count_here(loaded.recipe.distributed, machine)),
    )
    made = _measured(loaded, made, machine, known) if measure else made
    found = None if size is None else _fitted(loaded, made, machine, known, size)
    if as_json:
        more = {"fit": fit_table(found)} if found else {}
        print_json({**made.model_dump(mode="json"), "free_memory_bytes": free or None, **more})
        return
    shows = _print_lines if wide or not is_terminal() else _print_table
    shows(made, free)
    if found:
        print_fit(found)


UNKNOWN, NONE = "unknown", "none"


_APART = ("deepspeed", "memory", "mapped_bytes", "notes")
"""Fields of a plan that are shown below the others."""


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
    derived = {name: getattr(made, name) for name in type(made).model_fields if name not in _APART}
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


def _print_lines(made: Plan, free: int) -> None:
    """Print one line per value, in columns that scripts can parse."""
    for line in _lines(made):
        say(f"{line.name:<28} {line.value:>12}  {line.origin}{f'  {line.why}' if line.why else ''}")
    for name, size in memory_terms(made):
        say(f"{f'memory.{name}':<28} {gigabytes(size):>12}  computed")
    if made.memory and free:
        say(f"{'free_memory':<28} {gigabytes(free):>12}  computed  in each process")
    if made.deepspeed:
        say(f"deepspeed {json.dumps(made.deepspeed, indent=2)}")
    for note in made.notes:
        say(f"note: {note}")


_STYLES = {"recipe": "cyan", "--set": "cyan", "accelerate_config": "cyan", "init_adapter": "cyan"}
"""Colours of origins that are the user's choices."""


def _print_table(made: Plan, free: int) -> None:
    """Print a table as wide as the terminal, with wrapped reasons, and the memory as bars."""
    draw(_table(_lines(made)))
    if made.memory:
        draw(memory_bars(made, free))
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


@dataclass(frozen=True)
class Known:
    """What a plan follows from beside the recipe and the machine."""

    base: Base | PublishedBase | None
    rows: DataFacts
    teacher: TeacherSize | None
    is_elsewhere: bool
    """True if the plan is for another machine, of which the runs of this one say nothing."""


def known_for(loaded: LoadedRecipe, is_elsewhere: bool) -> Known:
    """Find the base, the rows and the teacher of a recipe, without downloading or tokenising."""
    from lora_ns.answers.teacher import find_teacher
    from lora_ns.data.known_rows import known_facts
    from lora_ns.data.named_files import check_named_files
    from lora_ns.model.find import recipe_base_here
    from lora_ns.model.published import published_base
    from lora_ns.recipe.load import locating

    check_named_files(loaded)
    with locating(loaded):
        base = recipe_base_here(loaded.recipe.model, loaded.folder) or published_base(loaded.recipe.model)
        rows = known_facts(loaded.recipe, loaded.folder)
        teacher = find_teacher(loaded.recipe.objective, [loaded.folder, Path.cwd()], download=False)
    return Known(base, rows, teacher.size if teacher else None, is_elsewhere)


def planned_for(loaded: LoadedRecipe, machine: Machine, known: Known, speed: Measured | None = None) -> Plan:
    """The plan of a recipe for a machine, with a speed that was measured, or else that of an earlier run."""
    from lora_ns.plan.deepspeed import with_deepspeed
    from lora_ns.plan.make import make_plan
    from lora_ns.plan.memory.band import PUBLISHED, band
    from lora_ns.plan.settle import settle
    from lora_ns.recipe.load import locating
    from lora_ns.run.measured_memory import remembered
    from lora_ns.services.measured_speed import measured_speed

    with locating(loaded):
        settled = settle(loaded, machine, known.base, known.teacher)
        measured = speed or measured_speed(settled.recipe, settled.folder, machine)
        usual = PUBLISHED if known.is_elsewhere else band(remembered(machine.accelerator))
        made = make_plan(settled, machine, known.base, known.rows, measured, usual)
        return with_deepspeed(settled.recipe, settled.folder, made)


def _measured(loaded: LoadedRecipe, made: Plan, machine: Machine, known: Known) -> Plan:
    """The plan with memory and speed of a few real steps."""
    from lora_ns.services.measure import STEPS, check_measurable, corrected, measure

    check_measurable(loaded, made)
    say(f"training {STEPS} steps to measure them ...", err=True)
    found = measure(loaded)
    return corrected(planned_for(loaded, machine, known, found.speed), found, machine)


def _fitted(loaded: LoadedRecipe, made: Plan, machine: Machine, known: Known, size: int) -> Fit:
    """What makes a plan fit. Raises `UsageError` if its memory is not known."""
    from lora_ns.plan.cuts import fit_into
    from lora_ns.recipe.load import load_recipe

    if made.memory_bytes.value is None:
        what = f"the memory of the run is {made.memory_bytes.why}"
        raise UsageError(Problem("--fit", what, "download the base, or leave `--fit` out"))

    def plan_with(overrides: Sequence[str]) -> Plan:
        return planned_for(load_recipe(loaded.path, [*loaded.overrides, *overrides], loaded.text), machine, known)

    return fit_into(size, made, made.memory_bytes.value, loaded.recipe, plan_with)


def _size(text: str) -> int:
    """Read the size of `--fit`. Raises `UsageError`."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * _UNIT_BYTES[found[2].upper()]) if found else 0
    if not size:
        what = f"`{text}` is not a size of memory"
        raise UsageError(Problem("--fit", what, "write a number and a unit: `24GB` or `80GiB`"))
    return size


_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([MGT]i?B)", re.IGNORECASE)
_UNIT_BYTES = {
    **{f"{letter}B": 1000**power for letter, power in (("M", 2), ("G", 3), ("T", 4))},
    **{f"{letter}IB": 1024**power for letter, power in (("M", 2), ("G", 3), ("T", 4))},
}
