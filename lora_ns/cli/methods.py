"""`lorans methods`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_ns.cli import complete
from lora_ns.cli.options import AsJson
from lora_ns.cli.results import draw_panel
from lora_ns.cli.show import print_json, print_pairs
from lora_ns.cli.terminal import is_terminal, say, say_coloured, say_wrapped, width
from lora_ns.errors import Problem, UsageError, did_you_mean

if TYPE_CHECKING:
    from lora_ns.methods import PeftMethod
    from lora_ns.objectives import Objective


_COLOURS = {"yes": "green", "-": "bright_black"}
_ROWS = {
    "Conversation": "chats",
    "PromptCompletion": "prompts",
    "RawText": "text",
    "Labelled": "labelled texts",
    "LabelledCompletion": "rated answers",
    "Tagged": "tagged words",
    "Preference": "pairs",
    "Prompt": "questions",
}
"""Kinds of examples in words."""


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="Method to describe in detail.", show_default=False, autocompletion=complete.methods),
    ] = None,
    objectives: Annotated[bool, typer.Option("--objectives", help="List the training objectives instead.")] = False,
    wide: Annotated[bool, typer.Option("--wide", help="Show all columns, as on a terminal where they fit.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the PEFT methods and their combinations, describe one in detail, or list the training objectives."""
    from lora_ns.methods import METHODS, REFUSED

    if objectives:
        if name is not None or wide:
            what = f"`{name or '--wide'}` is about methods, and `--objectives` lists objectives"
            raise UsageError(Problem("", what, "leave one of them out"))
        _print_objectives(as_json)
        return
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

    def table(fields: Sequence[str]) -> list[tuple[str, ...]]:
        return [columns(fields), *(marks(name, kind, fields) for name, kind in METHODS.items())]

    rows = table(tuple(QUESTIONS))
    gap = _widest_gap(rows) if is_terminal() else None
    shows_all = wide or gap is not None
    _print_rows(rows if shows_all else table(NARROW), gap or 2)
    more = "" if shows_all else "; `lorans methods --wide` shows all columns"
    say_wrapped(f"`lorans methods NAME` describes its keys, its limits and its uses{more}.")


def _print_objectives(as_json: bool) -> None:
    from lora_ns.objectives import OBJECTIVES

    found = [_objective(kind) for kind in OBJECTIVES.values()]
    if as_json:
        print_json({"objectives": found})
        return
    rows = [("table", "task_type", "trainer", "upstream", "rows")]
    for facts in found:
        trainer, upstream = facts["trainer"].rpartition(".")[2], "experimental" if facts["experimental"] else "stable"
        rows.append((f"[{facts['table']}]", facts["task_type"], trainer, upstream, facts["rows"]))
    _print_rows(rows, _widest_gap(rows) or 1)
    say_wrapped("Experimental upstream: TRL may change, move or remove the trainer at any time.")


def _objective(kind: type[Objective]) -> dict[str, Any]:
    """Collect the facts about an objective."""
    from lora_ns.objectives.experimental import PREFIX

    return {
        "table": kind.toml,
        "task_type": kind.task_type,
        "trainer": kind.upstream,
        "experimental": kind.upstream.startswith(PREFIX),
        "rows": ", ".join(_ROWS.get(example.__name__, example.__name__) for example in kind.examples),
        "description": " ".join((kind.__doc__ or "").partition("\n")[0].split()),
    }


def _widest_gap(rows: Sequence[tuple[str, ...]]) -> int | None:
    """Return the spaces between the columns with which a table fits the terminal, None if it does not."""
    free = width() - sum(_widths(rows))
    return next((gap for gap in (2, 1) if gap * (len(rows[0]) - 1) <= free), None)


def _widths(rows: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _print_rows(rows: Sequence[tuple[str, ...]], gap: int) -> None:
    widths = _widths(rows)
    for row in rows:
        cells = [cell.ljust(length + gap) for cell, length in zip(row[:-1], widths, strict=False)]
        say_coloured([*((cell, _COLOURS.get(cell.strip())) for cell in cells), (row[-1], None)])


def _facts(name: str, kind: type[PeftMethod]) -> dict[str, Any]:
    """Collect all facts about a method."""
    return {"method": name, "advice": kind.advice, "config_class": kind.config_class, **asdict(kind.capabilities)}


def _print_one(name: str, kind: type[PeftMethod]) -> None:
    from lora_ns.recipe.keys import describe
    from lora_ns.recipe.methods_page import QUESTIONS

    capabilities = kind.capabilities
    pairs = [
        ("method", f"{name}: {kind.__doc__}"),
        ("advice", kind.advice),
        ("learning rate", _rate(capabilities.typical_learning_rate)),
        *([("benchmark", capabilities.benchmark)] if capabilities.benchmark else []),
        *((question, _answer(getattr(capabilities, field))) for field, question in QUESTIONS.items()),
    ]
    if is_terminal():
        draw_panel(name, ([(question, "bold"), (answer, _style(answer))] for question, answer in pairs))
    else:
        print_pairs(pairs)
    say()
    properties = kind.model_json_schema()["properties"]
    keys = [(key, entry) for key, entry in properties.items() if key not in {"method", "extra"}]
    for key, entry in keys:
        default = f"; default: {json.dumps(entry['default'])}" if entry.get("default") not in (None, [], {}) else ""
        say_wrapped(f"{key}: {describe(entry)}{default}", rest="    ", head=(key, "cyan"))
        say_wrapped(" ".join(entry.get("description", "").split()), "    ", "    ")


def _style(answer: str) -> str:
    return "green" if answer == "yes" else "yellow" if answer.startswith("no: ") else ""


def _answer(value: bool | str) -> str:
    return f"no: {value}" if isinstance(value, str) else ("yes" if value else "no")


def _rate(typical: float) -> str:
    from lora_ns.methods.capabilities import LORA_RATE

    fitted = ", adjusted to task and base" if typical == LORA_RATE else ""
    return f"{typical:g} by default{fitted}"
