"""Expected failures, each class with its exit code, and the `Problem` that they report.

Any other exception is a bug and keeps its traceback.
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
    """An error that the user can fix: its place, the fault and the remedy, with secrets hidden.

    Printed as `recipe.toml:13: peft.lora_alfa: unknown key (did you mean `lora_alpha`?)`.
    """

    where: str
    """File and line, file and row, or a directory; empty if there is no place to name."""
    what: str
    """The fault and the value that caused it, in lower case and without a full stop."""
    remedy: str = ""
    """The text to write or the command to run instead; empty only if the fault already implies it."""
    code: str = ""
    """Stable code of a check, such as `EOS001`, if it has one."""
    key: str = ""
    """Dotted recipe key whose value is at fault, such as `peft.lora_alpha`; printed before the fault."""
    place: str = ""
    """Dotted recipe key that gives the line number only, because its value is not at fault."""

    def __post_init__(self) -> None:
        # Here rather than in the printer: other processes and the manifest store problems, too.
        for name in ("where", "what", "remedy", "key"):
            object.__setattr__(self, name, scrubbed(_cut(getattr(self, name))))

    def __str__(self) -> str:
        code = f"[{self.code}] " if self.code else ""
        where = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        key = f"{self.key}: " if self.key else ""
        return f"{where}{code}{key}{self.what}{remedy}"

    def located(self, where: Callable[[str], str]) -> Problem:
        """Add the line of the key, if the problem has a key and no place yet."""
        key = self.key or self.place
        return replace(self, where=where(key)) if key and not self.where else self


LONGEST = 8_000
"""Maximum characters of each part of a problem, so that a long name or value does not flood the terminal."""


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 100]} ... and {len(text) - LONGEST + 100:,} more characters"


class LoransError(Exception):
    """An expected failure, with its problems and an exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problems: Problem | Iterable[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@contextlib.contextmanager
def at_key(key: str) -> Iterator[None]:
    """Add a dotted recipe key to problems that name no place."""
    try:
        yield
    except LoransError as error:
        found = [problem if problem.where else replace(problem, key=key) for problem in error.problems]
        raise type(error)(found) from error.__cause__


class RunError(LoransError):
    """The run started and failed, for instance without memory or disk space, or with a loss of NaN."""

    exit_code = 1


class UsageError(LoransError):
    """A command line, an input file or a run directory is unusable."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is invalid."""


class DataError(UsageError):
    """The rows do not match the recipe."""


class ModelError(UsageError):
    """The base model is missing, broken or not the expected one."""


class PlanError(UsageError):
    """The recipe is valid, but its settings do not work together or do not fit the machine."""


class MissingError(LoransError):
    """The environment lacks a package or a device that the command needs."""

    exit_code = 3


class InterruptedRunError(LoransError):
    """A signal stopped the run after it saved a checkpoint. The message contains the command that resumes it."""

    def __init__(self, signal_number: int, problem: Problem) -> None:
        super().__init__(problem)
        self.signal_number = signal_number


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


LONGEST_NAME = 80
"""Maximum characters of a name to compare. A longer one is no typo, and comparing it is slow."""


def close_to(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return known names that are spelt nearly like this one, the nearest first; of equally near ones, the first known.

    Case and separators do not count: `Learning-Rate` is `learning_rate`. A name longer than `LONGEST_NAME` has none.

    Args:
        name: the name as written.
        known: the names it could be, the commonest first.
        most: maximum number of names to return.
        cutoff: required similarity, from 0 to 1.
    """
    if len(name) > LONGEST_NAME:
        return []
    listed = [other for other in known if len(other) <= LONGEST_NAME]
    if same := [other for other in listed if plain_name(other) == plain_name(name)]:
        return same[:most]
    alike = set(difflib.get_close_matches(name, listed, n=max(1, len(listed)), cutoff=cutoff))
    return sorted((other for other in listed if other in alike), key=lambda other: _distance(name, other))[:most]


def _distance(name: str, other: str) -> tuple[bool, float]:
    """Return a key by which names are sorted: first those that one slip explains, then the more similar."""
    return not _is_one_slip(plain_name(name), plain_name(other)), -difflib.SequenceMatcher(None, other, name).ratio()


def _is_one_slip(name: str, other: str) -> bool:
    """True if one letter is missing, added or wrong, or two neighbours are swapped."""
    pairs = zip(name, other, strict=False)
    same = next((place for place, (one, two) in enumerate(pairs) if one != two), min(len(name), len(other)))
    left, right = name[same:], other[same:]
    swapped = left[1::-1] + left[2:]
    return left[1:] == right or left == right[1:] or left[1:] == right[1:] or swapped == right


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
    """Write a remedy that suggests known names with a similar spelling.

    Args:
        name: the name as written.
        known: the names it could be, the commonest first.
        most: maximum number of suggestions.
        cutoff: required similarity, from 0 to 1.
        write: returns the text to suggest for a known name, or None to skip it.
        beside: text that follows, with or without a suggestion.
    """
    meant = [text for other in close_to(name, known, most, cutoff) if (text := write(other)) is not None]
    return " ".join(part for part in (question(meant) if meant else "", beside) if part)


def question(names: Iterable[str]) -> str:
    """Write "did you mean" with these names."""
    return f"did you mean {' or '.join(f'`{name}`' for name in names)}?"
