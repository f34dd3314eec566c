"""Questions that rows and base leave open, and their answers where nobody can be asked."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from lora_ns.errors import Problem, UsageError
from lora_ns.recipe.starters import as_inline


@dataclass(frozen=True)
class Question:
    """Something that rows and base leave open."""

    text: str
    options: tuple[str, ...]
    remedy: str
    """The options of the command line that answer it."""
    is_safe: bool = False
    """True if the first option may be taken without asking."""


Ask = Callable[[Question], int]
"""The number of the option that is chosen."""


def take_defaults(question: Question) -> int:
    """The first option, where nobody can be asked. Raises `UsageError` if that is not safe."""
    if question.is_safe:
        return 0
    raise UsageError(Problem("", question.text, question.remedy))


def as_option(key: str, value: object) -> str:
    """The option that says a key of `[dataset]`, for a shell."""
    return f"--set {shlex.quote(f'dataset.{key}={as_inline(value)}')}"
