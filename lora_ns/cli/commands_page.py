"""The command reference in `docs/commands.md`: `python -m lora_ns.cli.commands_page`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from lora_ns.cli.app import COMMANDS
from lora_ns.cli.commands import Entry, Family
from lora_ns.cli.terminal import hand_over


def page() -> str:
    """All commands with their arguments and options as Markdown."""
    shown = list(_shown())
    lines = [
        "# Commands",
        "",
        "Every command, with its arguments and options, as `lorans COMMAND --help` prints them. The",
        "[exit codes](overview.md#results-messages-and-exit-codes) are the same for all. Written from the commands; a",
        "test holds it to them.",
        "",
        "| group | command | what it does |",
        "|---|---|---|",
    ]
    for group, entries in groupby(shown, key=lambda row: row[0]):
        for place, (_, words, entry) in enumerate(entries):
            name = f"[`lorans {words}`](#lorans-{words.replace(' ', '-')})"
            lines.append(f"| {'' if place else group} | {name} | {_sentence(entry)} |")
    for _, words, entry in shown:
        lines += _section(words, entry)
    return "\n".join(lines) + "\n"


def _shown() -> Iterator[tuple[str, str, Entry]]:
    """Yield the group, the words and the entry of every command that is shown."""
    for entry in COMMANDS:
        if isinstance(entry, Family):
            yield from ((entry.group, f"{entry.name} {command.name}", command) for command in entry.commands)
        elif entry.group:
            yield entry.group, entry.name, entry


def _sentence(entry: Entry) -> str:
    return _paragraphs(entry)[0]


def _paragraphs(entry: Entry) -> list[str]:
    text = inspect.getdoc(entry.function) or ""
    return [paragraph.replace("\n", " ") for paragraph in text.split("\n\n")]


def _section(words: str, entry: Entry) -> Iterator[str]:
    yield from ("", f"## `lorans {words}`")
    for paragraph in _paragraphs(entry):
        yield from ("", paragraph)
    yield from ("", "```bash", *entry.examples, "```")
    rows = [_row(name, *_declared(hint)) for name, hint in _hints(entry).items()]
    if rows:
        yield from ("", "| argument or option | takes | effect |", "|---|---|---|", *rows)


def _hints(entry: Entry) -> dict[str, Any]:
    """Return the annotated type of each parameter that is given on the command line, in the order of the command."""
    hints = get_type_hints(entry.function, include_extras=True)
    named = inspect.signature(entry.function).parameters
    return {name: hints[name] for name in named if hints[name] is not typer.Context}


def _declared(hint: Any) -> tuple[Any, ArgumentInfo | OptionInfo]:
    declared = hint
    if type(None) in get_args(hint):  # Python 3.10 makes a parameter optional if its default is None
        declared = next(part for part in get_args(hint) if part is not type(None))
    kind, info = get_args(declared)
    return kind, info


def _row(name: str, kind: Any, info: ArgumentInfo | OptionInfo) -> str:
    # Within `Annotated`, typer keeps the first name as the default.
    given = [named for named in (info.default, *(info.param_decls or ())) if str(named).startswith("-")]
    names = given or [f"--{name.replace('_', '-')}" if isinstance(info, OptionInfo) else name.upper()]
    cells = (", ".join(f"`{shown}`" for shown in names), _taken(kind, info), info.help or "")
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


BAR = "\\|"
"""How a table of Markdown writes a bar within a cell."""


def _taken(kind: Any, info: ArgumentInfo | OptionInfo) -> str:
    """Describe the value of a parameter; a flag takes none."""
    if kind is bool:
        return ""
    if info.metavar:
        return f"`{info.metavar}`"
    parts = [part for part in (get_args(kind) or (kind,)) if part is not type(None)]
    if get_origin(parts[0]) is Literal:
        parts = list(get_args(parts[0]))
    if all(isinstance(part, str) for part in parts):
        return " or ".join(f"`{part}`" for part in parts)
    several = get_origin(kind) is list
    return {int: "a number", float: "a number", Path: "paths" if several else "a path"}.get(parts[0], "a text")


if __name__ == "__main__":
    hand_over(page().rstrip("\n"))
