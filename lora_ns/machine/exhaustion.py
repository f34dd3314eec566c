"""Too little memory, however Python, torch and safetensors say it, as one message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lora_ns.errors import Problem, RunError
from lora_ns.files.shortage import is_out_of_memory


@contextlib.contextmanager
def telling_memory_errors(told: Callable[[], str], remedy: str) -> Iterator[None]:
    """Turn too little memory into a `RunError`.

    Args:
        told: says what it was too little for; called where that is the case.
        remedy: what to do about it.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError, ImportError, SystemError) as error:
        if is_out_of_memory(error):
            raise RunError(Problem("", told(), remedy)) from error
        raise
