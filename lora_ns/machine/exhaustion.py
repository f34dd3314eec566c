"""One error message for too little memory, however Python, torch or safetensors report it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lora_ns.errors import Problem, RunError
from lora_ns.files.shortage import is_out_of_memory


@contextlib.contextmanager
def telling_memory_errors(message: Callable[[], str], remedy: str | Callable[[], str]) -> Iterator[None]:
    """Turn an out-of-memory error into a `RunError`.

    Args:
        message: returns the message; called only if memory ran out.
        remedy: the way to fix it, or a function like `message`.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError, ImportError, SystemError) as error:
        if is_out_of_memory(error):
            fix = remedy if isinstance(remedy, str) else remedy()
            raise RunError(Problem("", message(), fix)) from error
        raise
