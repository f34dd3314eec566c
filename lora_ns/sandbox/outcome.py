"""A program with its tests, its limits, and the outcome of running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """The end of a program; the value says it in words."""

    PASSED = "passed every test"
    FAILED = "failed a test"
    RAISED = "raised an exception before the tests"
    ENDED_EARLY = "ended before the last test"
    FORGED = "wrote to the channel of the verdict"
    TIMEOUT = "took too long"
    MEMORY = "needed too much memory"
    OUTPUT = "printed too much"
    CRASHED = "was ended by a signal"


@dataclass(frozen=True)
class Program:
    """A program, and tests that run after it, each a piece of Python code that raises if it fails."""

    code: str
    tests: Sequence[str] = ()


@dataclass(frozen=True)
class Limits:
    """Limits of a program and of all processes that it starts."""

    seconds: float = 15.0
    """Wall-clock time of the whole run."""
    cpu_seconds: int = 5
    """Processor time of each process."""
    memory: int = 512 * 2**20
    """Address space of each process, and memory of all of them together, in bytes."""
    disk: int = 64 * 2**20
    """Size of all files together, in bytes. They are in memory, in a file system that vanishes at the end."""
    files: int = 64
    """Open files of each process."""
    processes: int = 16
    """Processes and threads at a time."""
    output: int = 256 * 2**10
    """Bytes of standard output and standard error together."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a program."""

    verdict: Verdict
    passed: tuple[bool, ...]
    """Each test in order; all False if the program did not come to the end of its tests."""
    why: str = ""
    """The exception of the first failure in a line, or the signal or limit that ended the program."""
    output: str = ""
    """Standard output and standard error, up to the limit."""
    seconds: float = 0.0
    """Wall-clock time, including the start of the sandbox."""

    @property
    def share(self) -> float:
        """Share of tests that passed; of a program without tests, 1 if it ran to its end."""
        return sum(self.passed) / len(self.passed) if self.passed else float(self.verdict is Verdict.PASSED)

    def __str__(self) -> str:
        return f"{self.verdict.value}: {self.why}" if self.why else self.verdict.value
