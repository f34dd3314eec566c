"""The only output of the commands: everything on standard output and standard error passes through here.

Text for people is made printable, without secrets, on a terminal as in a log. Results for programs are written
unchanged to a file or a pipe, and made printable on a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

import typer

from lora_ns.errors import Problem, RunError
from lora_ns.safety.printable import printable, readable


def say(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print text for people, on one line or several."""
    _write(readable(text) + end, err)


def say_coloured(pieces: Iterable[tuple[str, str | None]], is_row: bool = False) -> None:
    """Print a line of texts, each in its colour; plain where colours are off.

    Args:
        pieces: the texts.
        is_row: True for a row of the user's data, which is shown in full.
    """
    listed = [(printable(text, is_multiline=True) if is_row else readable(text), colour) for text, colour in pieces]
    coloured = has_colour()
    _write("".join(typer.style(text, fg=colour) if coloured else text for text, colour in listed) + "\n", err=False)


def hand_over(text: str) -> None:
    """Print a line of a result unchanged; a terminal gets it in printable form."""
    _write((printable(text, is_multiline=True) if sys.stdout.isatty() else text) + "\n", err=False)


def draw(renderable: Any) -> None:
    """Print something that rich draws, such as a table; its texts must already be `readable`."""
    from rich.console import Console

    Console(no_color=not has_colour(), highlight=False).print(renderable)


def has_colour() -> bool:
    """Return whether standard output is a terminal with colours on."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(text: str, err: bool) -> None:
    """Write text; characters that the stream cannot encode become escapes."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    try:
        typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err, nl=False)
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
