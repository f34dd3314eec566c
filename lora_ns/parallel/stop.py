"""Signals that ask a training to end: at once before its first step is complete, afterwards once a step is saved."""

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
"""Signals that would end a process, and that terminals, users and schedulers send."""


class EndedEarly(KeyboardInterrupt):
    """A signal came before anything was trained. Raised where the program is, as Python does for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@dataclass
class StopSignal:
    """A request to end. A second Ctrl-C ends at once; other signals may come more than once, schedulers repeat them."""

    number: int = 0
    file: Path | None = None
    """Where the launcher of several processes writes the number of a signal that it was sent."""
    is_noted: bool = False
    """Whether a signal is only noted, because `asked` is called after each step; else it ends what runs."""

    def asked(self) -> int:
        """The number of the signal that any of the processes knows of, or 0; each of them asks."""
        if not self.number and self.file is not None and self.file.exists():
            self.number = int(self.file.read_text() or 0)
        self.number = any_of(self.number)
        return self.number

    def begin(self, began: Callable[[], None]) -> None:
        """Note signals from now on, since a step is complete, and do what waits for that; called after each step.

        Raises:
            EndedEarly: if any of the processes knows of a signal: what was there before the first step is still there.
        """
        if self.is_noted:
            return
        self.is_noted = True
        if number := self.asked():
            raise EndedEarly(number)
        began()

    @contextlib.contextmanager
    def listening(self, remedy: Callable[[], str] = lambda: "give the command again") -> Iterator[StopSignal]:
        """Catch what asks for an end, unless it was ignored before, as `nohup` does with SIGHUP.

        SIGINT is always caught: shells have what a script starts with `&` ignore it, and `kill -INT` is meant.

        Outside the main thread, where that is impossible, nothing is caught.

        Args:
            remedy: what to do after an end that came before the first step.

        Raises:
            InterruptedRunError: after such an end.
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
            problem = Problem("", "stopped before a step was complete", remedy())
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
