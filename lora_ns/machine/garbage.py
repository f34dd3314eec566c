"""Python's garbage collection during start-up, where it looks at everything and finds nothing."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

_USUAL = gc.get_threshold()

_RARELY = 100_000
"""New objects until a collection of a process that only starts up and prints; Python's own number is 700 to 2,000."""


def collect_rarely() -> None:
    """Collect garbage after many more new objects than Python does by itself.

    For the process of one command: a tenth of its start would go into collections, and there is hardly any garbage.
    """
    gc.set_threshold(_RARELY, *_USUAL[1:])


def collect_as_usual() -> None:
    """Collect garbage as Python does by itself, since objects that wait for it may hold tensors."""
    gc.set_threshold(*_USUAL)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Pause garbage collection during the imports of libraries, and exempt their objects from collection afterwards.

    The imports create half a million objects and hardly any garbage. Scanning them takes longer than a training step.
    """
    if sys.modules.get("peft") or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
