"""The one tree of expected failures, each with its exit code, and the `Problem` they are made of.

Whatever is not a `LoransError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from lora_ns.safety.credentials import scrubbed


@dataclass(frozen=True)
class Problem:
    """One thing that the user can mend: where it is, what is wrong, what to write instead; never with a secret in it.

    Reads as `recipe.toml:13: peft.lora_alfa: unknown key (did you mean `lora_alpha`?)`.
    """

    where: str
    """File and line, file and row, a directory, or empty where nothing can be pointed at."""
    what: str
    """The fault, in lower case and without a full stop, with the value that was found."""
    remedy: str = ""
    """What to write or run instead; empty only if `what` already says it."""
    code: str = ""
    """A stable code such as `EOS001`, for the checks that have one."""
    key: str = ""
    """The dotted key of the recipe whose value is at fault, such as `peft.lora_alpha`; it is told before the fault."""
    place: str = ""
    """A dotted key whose line is meant, where its value is not what is wrong."""

    def __post_init__(self) -> None:
        # Here and not where it is printed: problems are also written down, by other processes and in the manifest.
        for name in ("where", "what", "remedy", "key"):
            object.__setattr__(self, name, scrubbed(_cut(getattr(self, name))))

    def __str__(self) -> str:
        code = f"[{self.code}] " if self.code else ""
        where = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        key = f"{self.key}: " if self.key else ""
        return f"{where}{code}{key}{self.what}{remedy}"

    def located(self, where: Callable[[str], str]) -> Problem:
        """The problem with the line of its key, if it has a key and nothing else was said."""
        key = self.key or self.place
        return replace(self, where=where(key)) if key and not self.where else self


LONGEST = 8_000
"""Characters of each part of a problem: no name or value of the user's fills the terminal or the manifest."""


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 100]} ... and {len(text) - LONGEST + 100:,} more characters"


class LoransError(Exception):
    """An expected failure: a short list of problems and the exit code that belongs to its kind."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problems: Problem | Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@contextlib.contextmanager
def at_key(key: str) -> Iterator[None]:
    """Say of problems without a place that they are in the value of a dotted key."""
    try:
        yield
    except LoransError as error:
        found = [problem if problem.where else replace(problem, key=key) for problem in error.problems]
        raise type(error)(found) from error.__cause__


class RunError(LoransError):
    """The run started and failed: no memory, no disk space, a loss that is not a number."""

    exit_code = 1


class UsageError(LoransError):
    """A command line, an input file or a run directory that cannot be used as it is."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe does not say something that can be run."""


class DataError(UsageError):
    """The rows do not fit the recipe."""


class ModelError(UsageError):
    """The base model cannot be found, or is not the one that is needed."""


class PlanError(UsageError):
    """The recipe is well-formed, but what it asks for does not work together or does not fit."""


class MissingError(LoransError):
    """The environment lacks something that the command needs."""

    exit_code = 3


class InterruptedRunError(LoransError):
    """The run was stopped by a signal after saving; the command that resumes it is in the message."""

    def __init__(self, signal_number: int, problem: Problem) -> None:
        super().__init__(problem)
        self.signal_number = signal_number


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


LONGEST_NAME = 80
"""Characters of a name that is compared; a longer one is no slip of the pen, and takes long to compare."""


def close_to(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return known names that are spelt nearly like this one, the nearest first.

    Case and separators do not count: `Learning-Rate` is `learning_rate`. A name longer than `LONGEST_NAME` has none.
    """
    if len(name) > LONGEST_NAME:
        return []
    listed = [other for other in known if len(other) <= LONGEST_NAME]
    if same := [other for other in listed if plain_name(other) == plain_name(name)]:
        return same[:most]
    return difflib.get_close_matches(name, listed, n=most, cutoff=cutoff)


def plain_name(name: object) -> str:
    """Return the spelling by which names are compared: lower case, without separators."""
    return re.sub(r"[-_ .]+", "", str(name)).casefold()


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    most: int = 1,
    cutoff: float = 0.6,
    write: Callable[[str], str | None] = str,
    beside: str = "",
) -> str:
    """The question whether a known name was meant, as a remedy; without the question if none is spelt nearly so.

    Args:
        name: as it was written.
        known: what it could have been.
        most: how many are named.
        cutoff: how alike they have to be, from 0 to 1.
        write: what to write for a known name, None if it would be no remedy.
        beside: what is told in any case.
    """
    meant = [text for other in close_to(name, known, most, cutoff) if (text := write(other)) is not None]
    return " ".join(part for part in (question(meant) if meant else "", beside) if part)


def question(names: Iterable[str]) -> str:
    """The question whether one of these names was meant."""
    return f"did you mean {' or '.join(f'`{name}`' for name in names)}?"
