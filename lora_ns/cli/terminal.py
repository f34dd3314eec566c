"""The one way out: all that the commands write to standard output and standard error goes through here.

What a person reads is made printable and has no secrets in it, whether a terminal or a log takes it. Results that a
program reads stay as they are in a file or a pipe, and are made printable on a terminal.
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
    """A text for a person to read, of one line or several."""
    _write(readable(text) + end, err)


def say_coloured(pieces: Iterable[tuple[str, str | None]], is_row: bool = False) -> None:
    """A line of texts, each with the name of its colour; plain where no colours are wanted.

    Args:
        pieces: the texts.
        is_row: whether they are a row of the user's, which is shown with whatever is in it.
    """
    listed = [(printable(text, is_multiline=True) if is_row else readable(text), colour) for text, colour in pieces]
    coloured = has_colour()
    _write("".join(typer.style(text, fg=colour) if coloured else text for text, colour in listed) + "\n", err=False)


def hand_over(text: str) -> None:
    """A line of a result, as it is; on a terminal it is made printable."""
    _write((printable(text, is_multiline=True) if sys.stdout.isatty() else text) + "\n", err=False)


def has_colour() -> bool:
    """Whether standard output is a terminal that is to have colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _write(text: str, err: bool) -> None:
    """Write what the stream can encode, and the rest by code point."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    try:
        typer.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err, nl=False)
    except BrokenPipeError:
        raise  # nobody reads on: the parser of the command line ends the command
    except OSError as error:
        if err:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the rest is tried again when Python ends
        raise RunError(Problem("standard output", f"cannot be written: {error.strerror}", "free some space")) from None


class _ReadableStream:
    """Standard error for what others write to it: the parser of the command line, warnings, logs, tracebacks."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text in its readable form."""
        self.stream.write(readable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines in their readable form."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_errors_readable() -> None:
    """Have all that is written to standard error from now on in its printable form, without secrets."""
    if not isinstance(sys.stderr, _ReadableStream):
        sys.stderr = cast("TextIO", _ReadableStream(sys.stderr))


def steered_errors() -> TextIO:
    """Standard error as it is, for displays that move about on it and have no text of others in them."""
    stream = sys.stderr
    return stream.stream if isinstance(stream, _ReadableStream) else stream
