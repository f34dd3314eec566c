"""What all strategies share: how long they run, and what has to hold for whatever they make.

A kind of input has one file, `test_KIND.py`, with a function under `@campaign()` that calls `ends_well`. The default
suite runs a few examples that are always the same; `nox -s fuzz` runs those marked `fuzz` for FUZZ_SECONDS each.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from lora_ns.errors import LoransError

EXAMPLES = 60
"""Inputs that the default suite tries of each kind."""
MOST_SECONDS, MOST_MEMORY = 5.0, 2**20
"""What one input may take: seconds of the processor, and KiB that the process grows by."""


HANGING, EXPLODING = 60, 6 * 2**30
"""Seconds, and bytes more than before, after which an input is ended: it is not waited for, and the machine lives."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """End what waits for ever, or reads without an end, where it does."""

    def late(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise AssertionError(f"has not ended after {HANGING} s")

    before, (soft, hard) = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + EXPLODING, hard))
    signal.alarm(HANGING)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def ends_well(call: Callable[[], Any], seconds: float = MOST_SECONDS) -> None:
    """Nothing happens, or an expected failure that says what is wrong, in time and within memory."""
    began, size = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        call()
    except LoransError as error:
        _check(error)
    assert time.process_time() - began < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < MOST_MEMORY


def _check(error: LoransError) -> None:
    assert error.exit_code in {1, 2, 3}
    assert error.problems
    for problem in error.problems:
        assert problem.what.strip()
        assert problem.where or problem.what.startswith("and ")
        assert len(str(problem)) < 30_000


def holds_for(strategy: SearchStrategy[Any], check: Callable[[Any], None], examples: int = EXAMPLES) -> None:
    """Try the inputs that are always the same."""
    _tried(strategy, check, settings(derandomize=True, max_examples=examples))


def lasts(strategy: SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Try other inputs for FUZZ_SECONDS, and print their number and the seeds."""
    until, tried = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "60")), 0

    def counted(value: Any) -> None:
        nonlocal tried
        tried += 1
        check(value)

    while time.monotonic() < until:
        number = int.from_bytes(os.urandom(4), "big")
        sys.stdout.write(f"seed {number}, after {tried} inputs\n")
        _tried(strategy, counted, settings(max_examples=500), number)
    sys.stdout.write(f"{tried} inputs\n")


def _tried(strategy: SearchStrategy[Any], check: Callable[[Any], None], how: settings, number: int = 0) -> None:
    quiet = settings(how, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    seed(number)(quiet(given(strategy)(check)))() if number else quiet(given(strategy)(check))()


fuzz = pytest.mark.fuzz
