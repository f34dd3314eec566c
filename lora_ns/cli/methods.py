"""`lorans methods`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson
from lora_ns.cli.show import print_json, print_pairs
from lora_ns.cli.terminal import say, say_coloured
from lora_ns.errors import Problem, UsageError, did_you_mean

if TYPE_CHECKING:
    from lora_ns.methods import PeftMethod


_COLOURS = {"yes": "green", "-": "bright_black"}


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Method to describe in detail.", show_default=False, autocompletion=complete.methods),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, which need 161 characters.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the PEFT methods and their combinations, or describe one in detail."""
    from lora_ns.methods import METHODS, REFUSED

    if name is None:
        _print_all(wide, as_json)
        return
    if name in REFUSED:
        raise UsageError(Problem("", f"{name} cannot be trained: {REFUSED[name]}"))
    if name not in METHODS:
        hint = did_you_mean(name, METHODS) or "`lorans methods` lists them"
        raise UsageError(Problem("", f"no method `{name}`", hint))
    if as_json:
        print_json(_facts(name, METHODS[name]))
    else:
        _print_one(name, METHODS[name])


def _print_all(wide: bool, as_json: bool) -> None:
    from lora_ns.methods import METHODS, REFUSED
    from lora_ns.recipe.methods_page import NARROW, QUESTIONS, columns, marks

    if as_json:
        print_json({"methods": [_facts(name, kind) for name, kind in METHODS.items()], "refused": dict(REFUSED)})
        return
    fields = tuple(QUESTIONS) if wide else NARROW
    rows = [columns(fields), *(marks(name, kind, fields) for name, kind in METHODS.items())]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        say_coloured([*((f"{cell}  ", _COLOURS.get(cell.strip())) for cell in cells), (row[-1], None)])
    more = "" if wide else "; `lorans methods --wide` shows all columns"
    say(f"`lorans methods NAME` describes its keys, its limits and its uses{more}.")


def _facts(name: str, kind: type[PeftMethod]) -> dict[str, Any]:
    """Collect all facts about a method."""
    return {"method": name, "advice": kind.advice, "config_class": kind.config_class, **asdict(kind.capabilities)}


def _print_one(name: str, kind: type[PeftMethod]) -> None:
    from lora_ns.recipe.keys import describe
    from lora_ns.recipe.methods_page import QUESTIONS

    capabilities = kind.capabilities
    print_pairs(
        [
            ("method", f"{name}: {kind.__doc__}"),
            ("advice", kind.advice),
            ("learning rate", _rate(capabilities.typical_learning_rate)),
            *([("benchmark", capabilities.benchmark)] if capabilities.benchmark else []),
            *((question, _answer(getattr(capabilities, field))) for field, question in QUESTIONS.items()),
        ]
    )
    say()
    properties = kind.model_json_schema()["properties"]
    keys = [(key, entry) for key, entry in properties.items() if key not in {"method", "extra"}]
    for key, entry in keys:
        default = f", {entry['default']}" if entry.get("default") not in (None, []) else ""
        say(f"{key}: {describe(entry)}{default}")
        say(f"    {' '.join(entry.get('description', '').split())}")


def _answer(value: bool | str) -> str:
    return f"no: {value}" if isinstance(value, str) else ("yes" if value else "no")


def _rate(typical: float) -> str:
    from lora_ns.methods.capabilities import LORA_RATE

    fitted = ", adjusted to task and base" if typical == LORA_RATE else ""
    return f"{typical:g} by default{fitted}"
