"""Output of problems: one line each for programs, grouped by file on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from lora_ns.cli.terminal import is_terminal, say, say_coloured, wrapped

if TYPE_CHECKING:
    from lora_ns.errors import Problem

Kind = Literal["error", "warning", "stopped"]
"""`stopped` is for an interruption by the user, which has no label."""


COLOURS = {"error": "red", "warning": "yellow", "stopped": None}


_PLACE = re.compile(r"(?P<file>.+?)(?::(?P<line>\d+)|, (?P<row>row \d+))")


_COMMAND = re.compile(r"`((?:lorans|pip|hf|export|torchrun|accelerate) [^`]+)`")


_LEFT_OPEN = re.compile(r"\b[A-Z]+\b|\.\.\.|<")
"""Placeholders of a command that is incomplete, such as `lorans init NAME`."""


def print_problems(problems: Iterable[Problem], kind: Kind = "error") -> None:
    """Print problems on standard error.

    In a file or a pipe each is one line, `error: recipe.toml:13: KEY: WHAT (REMEDY)`, which editors and CI parse. On a
    terminal each file is a heading, with its lines below it.
    """
    if not is_terminal(err=True):
        before = "" if kind == "stopped" else f"{kind}: "
        for problem in problems:
            say(f"{before}{problem}", err=True)
        return
    files: dict[str, list[tuple[str, Problem]]] = {}
    for problem in problems:
        file, line = split_place(problem.where)
        files.setdefault(file, []).append((line, problem))
    for file, found in files.items():
        _print_file(file, found, kind)


def split_place(where: str) -> tuple[str, str]:
    """Split a place into its file and the position in it: `line 13`, `row 7`, or nothing."""
    place = _PLACE.fullmatch(where)
    if place is None:
        return where, ""
    return place["file"], f"line {place['line']}" if place["line"] else place["row"]


def _print_file(file: str, found: list[tuple[str, Problem]], kind: Kind) -> None:
    is_heading = bool(file) and any(line for line, _ in found)
    if is_heading:
        _print_marked(kind, file)
    most = max(len(line) for line, _ in found)
    for line, problem in found:
        code = f"[{problem.code}]" if problem.code else ""
        text = "  ".join(part for part in (code, problem.key, problem.what) if part)
        if is_heading:
            indent = " " * (2 + most + 2)
            first, *rest = _wrapped(text, indent)
            say_coloured([(f"  {line:<{most}}  ", "cyan"), (first[len(indent) :], None)], err=True)
        else:
            indent = "  "
            first, *rest = _wrapped(f"{file}: {text}" if file else text, " " * len(_mark(kind)))
            _print_marked(kind, first.lstrip())
        for more in rest:
            say(more, err=True)
        for more, colour in _remedy(problem.remedy, indent):
            say_coloured([(more, colour)], err=True)


def _mark(kind: Kind) -> str:
    return "" if kind == "stopped" else f"{kind}: "


def _print_marked(kind: Kind, text: str) -> None:
    say_coloured([(_mark(kind), COLOURS[kind]), (text, None)], err=True)


def _wrapped(text: str, indent: str) -> list[str]:
    return wrapped(text, indent, indent, err=True)


def _remedy(remedy: str, indent: str) -> Iterator[tuple[str, str | None]]:
    """Yield the lines of a remedy with their colours. A command to copy stands alone on the last line."""
    text, command = part_command(remedy)
    if text:
        yield from ((line, None) for line in _wrapped(text, indent))
    if command:
        yield f"{indent}  {command}", "cyan"


def part_command(remedy: str) -> tuple[str, str]:
    """Split a remedy into its text and the command in it, either of which may be empty.

    If a sentence starts with its command, `this` replaces it: "`lorans train run --resume` continues" becomes "this
    continues:", followed by the command.
    """
    found = [match for match in _COMMAND.finditer(remedy) if not _LEFT_OPEN.search(match[1])]
    if not found:
        return remedy, ""
    last = found[-1]
    before, after = remedy[: last.start()].rstrip(" ,;:"), remedy[last.end() :].strip()
    if not after:
        return f"{before}:" if before else "", last[1]
    if not before:
        return f"this {after}:", last[1]
    return remedy, last[1]
