"""Questions to the user, and default answers if nobody can answer."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from lora_ns.errors import Problem, UsageError
from lora_ns.recipe.starters import as_inline


@dataclass(frozen=True)
class Question:
    """A question about something that rows and base do not determine."""

    text: str
    options: tuple[str, ...]
    remedy: str
    """Command line options that answer it."""
    is_safe: bool = False
    """True if the first option is a safe default."""


Ask = Callable[[Question], int]
"""Function that returns the index of the chosen option."""


def take_defaults(question: Question) -> int:
    """Choose the first option without asking. Raises `UsageError` if it is not a safe default."""
    if question.is_safe:
        return 0
    raise UsageError(Problem("", question.text, question.remedy))


def as_option(key: str, value: object) -> str:
    """Return the option that sets a key of `[dataset]`, quoted for a shell."""
    return f"--set {shlex.quote(f'dataset.{key}={as_inline(value)}')}"
