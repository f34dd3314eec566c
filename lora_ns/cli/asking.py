"""Questions on a terminal, written to standard error."""

from __future__ import annotations

import sys

import typer

from lora_ns.cli.terminal import say
from lora_ns.errors import Problem, UsageError
from lora_ns.safety.printable import readable


def can_ask() -> bool:
    """True if a user can see a question and answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_text(question: str, default: str) -> str:
    """Ask for a text; Enter chooses the default.

    Raises:
        UsageError: if the input ends.
    """
    try:
        return str(typer.prompt(readable(question), default=default, err=True)).strip()
    except typer.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise UsageError(
            Problem(
                "", "the input ended before all questions were answered", "answer them, or use `--yes` for the defaults"
            )
        ) from None


def ask_option(question: str, options: tuple[str, ...]) -> int:
    """Ask for one of several options, and return its index; Enter chooses the first.

    Raises:
        UsageError: if the input ends.
    """
    say(question, err=True)
    for number, option in enumerate(options, start=1):
        say(f"  {number}  {option}", err=True)
    while True:
        answer = ask_text(f"1 to {len(options)}", "1")
        if answer.isdecimal() and 1 <= int(answer) <= len(options):
            return int(answer) - 1
        say(f"`{answer}` is not a number from 1 to {len(options)}", err=True)
