"""transformers in its form without torch, for a process that only tokenises."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from the imports of a block. Does nothing if torch or transformers is imported already.

    Half of the time that `AutoTokenizer` takes to import goes into torch, which no tokenizer needs. None in
    `sys.modules` is Python's own way to make a module impossible to import (the import system, section "The module
    cache"), so transformers takes the installation for one without torch, which it supports, and continues to do so
    after the block. Only a process that never needs a model may do this: models stay missing in it. torch itself can
    be imported again after the block.
    """
    if "torch" in sys.modules or "transformers" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
