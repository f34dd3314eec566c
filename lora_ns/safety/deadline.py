"""Time and memory limits for foreign code: chat templates and regular expressions.

A template or a pattern is a small program that came with a model or a recipe. One that never ends, or that allocates
all memory, must not take the command down with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

SECONDS = 3.0
"""Seconds per call. Real templates and patterns take milliseconds."""


MEMORY = 512 * 2**20
"""Bytes that one call may add to the process's address space."""


_RESERVE = 32 * 2**20
"""Bytes between the limit at which Python code is interrupted and the one at which allocations fail.

Python 3.10 to 3.12 miscount the references of a function that cannot be called for lack of memory, and may then use
what they have freed. So only what is too large at once fails for lack of memory; what grows is interrupted before.
"""


_TICK = 0.005
"""Seconds after which the limits are checked, again and again."""


_AGAIN = 1.0
"""Seconds after which a call is interrupted again: Python ignores an exception that is raised in a finalizer."""


T = TypeVar("T")


class OverrunError(Exception):
    """A call was stopped because it exceeded its time or memory limit. The message names the limit."""


def bounded(call: Callable[[], T], seconds: float = SECONDS, memory: int = MEMORY) -> T:
    """Call a function within limits and return its result.

    In the main thread the limit counts processor time, so that a busy machine stops nothing early, and it interrupts
    both Python code and regular expressions. Other threads receive no signals: there the limit counts wall-clock time
    and interrupts Python code only.

    Args:
        call: function to call.
        seconds: time limit.
        memory: bytes that it may add to the process. A single allocation far beyond fails at once.

    Raises:
        OverrunError: if it exceeds a limit.
    """
    try:
        with _interrupted(seconds, memory), _memory_limit(memory + _RESERVE):  # a thread needs room to start
            return call()
    except (MemoryError, _OutOfMemoryError):
        raise OverrunError(f"takes more than {memory // 2**20:,} MB of memory") from None
    except _OutOfTimeError:
        raise OverrunError(f"takes more than {seconds:g} s") from None


class _OutOfTimeError(BaseException):
    """Interrupts a call. Not an `Exception`, so that `except Exception` in the foreign code does not catch it."""


class _OutOfMemoryError(BaseException):
    """The same for a call that takes too much memory."""


def _interrupted(seconds: float, memory: int) -> contextlib.AbstractContextManager[None]:
    is_main = threading.current_thread() is threading.main_thread()
    clock = _processor_time if is_main else time.monotonic
    until, most = clock() + seconds, _size() + memory

    def exceeded() -> type[BaseException] | None:
        if clock() >= until:
            return _OutOfTimeError
        return _OutOfMemoryError if _size() > most else None

    return _by_signal(exceeded) if is_main else _by_thread(exceeded)


def _processor_time() -> float:
    """Seconds that this process has computed for, as its timer counts them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


@contextlib.contextmanager
def _by_signal(exceeded: Callable[[], type[BaseException] | None]) -> Iterator[None]:
    """Interrupt the main thread with a process timer, and restore an earlier timer afterwards."""

    def look(number: int, frame: FrameType | None) -> None:
        del number, frame
        if kind := exceeded():
            signal.setitimer(signal.ITIMER_VIRTUAL, _AGAIN, _AGAIN)
            raise kind

    handler = signal.signal(signal.SIGVTALRM, look)
    earlier = signal.setitimer(signal.ITIMER_VIRTUAL, _TICK, _TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *earlier)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def _by_thread(exceeded: Callable[[], type[BaseException] | None]) -> Iterator[None]:
    """Interrupt this thread from another one, at its next Python instruction."""
    thread, over, lock = threading.get_ident(), threading.Event(), threading.Lock()

    def watch() -> None:
        pause = _TICK
        while not over.wait(pause):
            with lock:
                if not over.is_set() and (kind := exceeded()):
                    _raise_in(thread, kind)
                    pause = _AGAIN

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with lock:
            over.set()
            _raise_in(thread, None)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Make a thread raise an exception at its next Python instruction; None cancels a pending one."""
    raised = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


@contextlib.contextmanager
def _memory_limit(memory: int) -> Iterator[None]:
    """Make allocations fail that would grow the process by more than `memory` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _size() + memory
    if soft != resource.RLIM_INFINITY and soft <= limit:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _size() -> int:
    """Address space of the process, in bytes."""
    file = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(file, 64).split(maxsplit=1)[0]) * _PAGE
    finally:
        os.close(file)


_PAGE = resource.getpagesize()
