"""Signals that stop training: at once while no step is complete, afterwards when the current step is saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import InterruptedRunError, Problem
from lora_ns.parallel.group import any_of

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


CAUGHT = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
"""Signals that would end a process, as sent by terminals, users and schedulers."""


class EndedEarly(KeyboardInterrupt):
    """A signal arrived before anything was trained. Raised in the running code, as Python does for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class StopSignal:
    """A request to stop. A second Ctrl-C stops at once; other signals may repeat, because schedulers repeat them."""

    number: int = 0
    file: Path | None = None
    """File in which the launcher of several processes writes the number of a signal that it receives."""
    is_noted: bool = False
    """True once signals are only noted, for `requested` after each step; until then, a signal stops the program."""

    def requested(self) -> int:
        """Return the number of a signal that any of the processes has received, or 0. Every process must call it."""
        if not self.number and self.file is not None and self.file.exists():
            self.number = int(self.file.read_text() or 0)
        self.number = any_of(self.number)
        return self.number

    def begin(self, began: Callable[[], None]) -> None:
        """Note signals from now on, because a step is complete, and run `began`. Called after each step.

        Raises:
            EndedEarly: if any of the processes has received a signal. Everything from before the first step is still
                there.
        """
        if self.is_noted:
            return
        self.is_noted = True
        if number := self.requested():
            raise EndedEarly(number)
        began()

    @contextlib.contextmanager
    def listening(self, remedy: Callable[[], str] = lambda: "run the command again") -> Iterator[StopSignal]:
        """Catch stop signals, except those that were ignored before, as `nohup` does with SIGHUP.

        SIGINT is always caught: shells make commands that a script starts with `&` ignore it, but a `kill -INT` is
        deliberate. Outside the main thread, where handlers cannot be installed, nothing is caught.

        Args:
            remedy: returns advice for a stop before the first step.

        Raises:
            InterruptedRunError: after such a stop.
        """
        before = {}
        try:
            for number in CAUGHT:
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    before[number] = signal.signal(number, self._request)
        except ValueError:
            before = {}
        try:
            yield self
        except EndedEarly as ended:
            problem = Problem("", "stopped before the first step was complete", remedy())
            raise InterruptedRunError(ended.number, problem) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request(self, number: int, _: object) -> None:
        is_first, self.number = not self.number, self.number or number
        if not is_first and number == signal.SIGINT:
            raise KeyboardInterrupt
        if is_first and not self.is_noted:
            raise EndedEarly(number)
