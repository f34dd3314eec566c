"""A limit of time and memory for code of others: chat templates, regular expressions.

A template or a pattern is a small program that came with a model or a recipe. One that never ends, or that asks for
all the memory there is, must not take the command with it.
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
"""What one call may take. Templates and patterns that are used take milliseconds."""


MEMORY = 512 * 2**20
"""Bytes that one call may add to the process."""


T = TypeVar("T")


class OverrunError(Exception):
    """A call was ended because it took more time or memory than it may; the message says which."""


def bounded(call: Callable[[], T], seconds: float = SECONDS, memory: int = MEMORY) -> T:
    """What a call returns, if it stays within its limits.

    In the main thread the time is that of the processor, so that a busy machine ends nothing early, and Python code and
    regular expressions are ended alike. Other threads get no signals: there the time is the clock's, and only Python
    code is ended.

    Args:
        call: what is called.
        seconds: the time that it may take.
        memory: bytes that it may add to the process; an allocation beyond is refused, however large it is.

    Raises:
        OverrunError: if it takes more.
    """
    try:
        with _time_limit(seconds), _memory_limit(memory):  # a thread needs room to start
            return call()
    except MemoryError:
        raise OverrunError(f"takes more than {memory // 2**20:,} MB of memory") from None
    except _OutOfTimeError:
        raise OverrunError(f"takes more than {seconds:g} s") from None


class _OutOfTimeError(BaseException):
    """Raised in the middle of a call; no `Exception`, since code that goes on after any of these is to end as well."""


def _time_limit(seconds: float) -> contextlib.AbstractContextManager[None]:
    return _by_signal(seconds) if threading.current_thread() is threading.main_thread() else _by_thread(seconds)


@contextlib.contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    """Raise in the main thread by a timer of the process; a timer that ran before goes on after it."""

    def ring(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _OutOfTimeError

    handler = signal.signal(signal.SIGVTALRM, ring)
    # Rings again, should the first one be swallowed in a finalizer, where Python ignores exceptions.
    earlier = signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *earlier)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    """Raise in this thread from another one, at its next line of Python."""
    thread, over, lock = threading.get_ident(), threading.Event(), threading.Lock()

    def watch() -> None:
        until = time.monotonic() + seconds
        while not over.wait(max(0.1, until - time.monotonic())):
            with lock:
                if not over.is_set():
                    _raise_in(thread, _OutOfTimeError)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        with lock:
            over.set()
            _raise_in(thread, None)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have a thread raise this at its next line, or take back what it has not raised yet."""
    raised = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


@contextlib.contextmanager
def _memory_limit(memory: int) -> Iterator[None]:
    """Have allocations fail that would make the process larger by more than this."""
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
    """Bytes of address space that the process has."""
    file = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(file, 64).split(maxsplit=1)[0]) * _PAGE
    finally:
        os.close(file)


_PAGE = resource.getpagesize()
