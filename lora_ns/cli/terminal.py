"""The only output of the commands: everything on standard output and standard error passes through here.

Text for people is made printable, without secrets, on a terminal as in a log. Results for programs are written
unchanged to a file or a pipe, and made printable on a terminal.
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer

from lora_ns.errors import Problem, RunError
from lora_ns.safety.printable import printable, readable

if TYPE_CHECKING:
    from rich.console import RenderableType


def say(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print text for people, on one line or several."""
    _write(readable(text) + end, err)


def say_coloured(pieces: Iterable[tuple[str, str | None]], is_row: bool = False, *, err: bool = False) -> None:
    """Print a line of texts, each in its colour; plain where colours are off.

    Args:
        pieces: the texts.
        is_row: True for a row of the user's data, which is shown in full.
        err: True to print on standard error.
    """
    listed = [(printable(text, is_multiline=True) if is_row else readable(text), colour) for text, colour in pieces]
    coloured = has_colour(err)
    line = "".join(typer.style(text, fg=colour) if coloured and colour else text for text, colour in listed) + "\n"
    _write(line, err, steers=coloured)


def hand_over(text: str) -> None:
    """Print a line of a result unchanged; a terminal gets it in printable form."""
    _write((printable(text, is_multiline=True) if sys.stdout.isatty() else text) + "\n", err=False)


def draw(table: RenderableType) -> None:
    """Print something that rich draws, such as a table; its texts must already be `readable`."""
    from rich.console import Console

    coloured = has_colour()
    console = Console(
        file=io.StringIO(),
        width=width(),
        force_terminal=coloured,
        color_system="standard" if coloured else None,
        highlight=False,
        legacy_windows=False,
    )
    with console.capture() as drawn:
        console.print(table)
    _write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()), err=False)


def is_terminal(err: bool = False) -> bool:
    """Return whether standard output, or standard error, is a terminal."""
    return (sys.stderr if err else sys.stdout).isatty()


def width(err: bool = False) -> int:
    """Return the width of the terminal in characters; 80 if it is unknown."""
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return max(NARROWEST, int(columns))
    try:
        found = os.get_terminal_size((sys.stderr if err else sys.stdout).fileno()).columns
    except (OSError, ValueError):
        found = 0
    return max(NARROWEST, found) if found else 80


def wrapped(text: str, first: str = "", rest: str = "", *, err: bool = False) -> list[str]:
    """Wrap a text to the width of the terminal.

    A word longer than a line, such as a path, stays whole, so that it can be copied.

    Args:
        text: a text of one line.
        first: prefix of the first line.
        rest: prefix of the other lines.
        err: True for standard error.
    """
    return textwrap.wrap(
        text,
        width(err),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def say_wrapped(
    text: str, first: str = "", rest: str = "", head: tuple[str, str] = ("", ""), *, err: bool = False
) -> None:
    """Print a text for people: wrapped on a terminal, on one line elsewhere.

    Args:
        text: a text of one line.
        first: prefix of the first line.
        rest: prefix of the other lines.
        head: the beginning of the first line, and its colour.
        err: True to print on standard error.
    """
    top, *below = wrapped(readable(text), first, rest, err=err) if is_terminal(err) else [first + text]
    begin, colour = head
    say_coloured([(begin, colour or None), (top.removeprefix(begin), None)], err=err)
    for line in below:
        say(line, err=err)


NARROWEST = 40
"""Smallest width that is assumed."""


def has_colour(err: bool = False) -> bool:
    """Return whether standard output, or standard error, is a terminal with colours on."""
    return is_terminal(err) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(text: str, err: bool, steers: bool = False) -> None:
    """Write text, with escapes for characters that the stream cannot encode; `steers` if it has colours in it."""
    stream = steered_errors() if err and steers else sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, nl=False)
    except BrokenPipeError:
        raise  # the reader is gone: the parser ends the command
    except OSError as error:
        if err:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries to write the rest again when it exits
        raise RunError(Problem("standard output", f"cannot be written: {error.strerror}", "free some space")) from None


class _ReadableStream:
    """Standard error for text of other libraries: the parser's errors, warnings, logs, tracebacks."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text in its readable form."""
        self.stream.write(readable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines in their readable form."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_errors_readable() -> None:
    """Make everything on standard error printable, and hide secrets in it, from now on."""
    if not isinstance(sys.stderr, _ReadableStream):
        sys.stderr = cast("TextIO", _ReadableStream(sys.stderr))


def steered_errors() -> TextIO:
    """Return the raw standard error, for live displays, which have no foreign text in them."""
    stream = sys.stderr
    return stream.stream if isinstance(stream, _ReadableStream) else stream
