"""Errors of the libraries on malformed files, as problems of the folder that they read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from lora_ns.errors import LoransError, MissingError, ModelError, Problem
from lora_ns.files.shortage import exhaustion
from lora_ns.model.consent import missing_code
from lora_ns.model.folder import SETTINGS

_LIBRARIES = frozenset(
    {"transformers", "tokenizers", "safetensors", "huggingface_hub", "torch", "accelerate", "peft", "gguf"}
)


_READERS_OF_SETTINGS = frozenset({"transformers.configuration_utils", "transformers.models.auto.configuration_auto"})


_OF_THE_MACHINE = ("out of memory", "can't allocate memory", "CUDA", "NCCL", "cuDNN")
"""Words in torch's `RuntimeError`s about faults of the machine, not of a file."""


_PLAIN = (ValueError, OSError, NotImplementedError)
"""Errors whose message is a sentence; for others, the type is put before it."""


@contextlib.contextmanager
def translating(problem: Problem) -> Iterator[None]:
    """Raise a `ModelError` for an error of a library that reads untrusted files.

    The libraries trust their files, so that a wrong type ends in an arbitrary Python error at its first use. An error
    counts as the file's fault if the last frame of lorans or a library is the library's. Bugs of lorans keep their
    traceback.

    Args:
        problem: the place of the files, the failed action, and the remedy; the error's message is added.

    Raises:
        ModelError: for an error that the library raised.
        MissingError: if the library needs a missing package.
    """
    try:
        yield
    except (LoransError, MemoryError):
        raise
    except ImportError as error:
        if not is_of_library(error.__traceback__) or exhaustion(error):
            raise
        what = f"{problem.what}: {_message(error)}"
        raise MissingError(Problem(problem.where, what, "`lorans env-check`")) from None
    except Exception as error:
        if not is_of_library(error.__traceback__) or _is_of_machine(error):
            raise
        found = replace(problem, what=f"{problem.what}: {_message(error)}")
        settings = Path(problem.where) / SETTINGS
        if _of_settings(error.__traceback__) and settings.is_file():
            found = Problem(str(settings), f"cannot be read: {_message(error)}", "fetch the model again")
        raise ModelError(missing_code(Path(problem.where), error) or found) from None


def _is_of_machine(error: Exception) -> bool:
    return exhaustion(error) is not None or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_THE_MACHINE)
    )


def is_of_library(traceback: TracebackType | None) -> bool:
    """True if the last frame of lorans or a library is a library's; frames of Python itself do not count."""
    found = False
    while traceback is not None:
        package = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in _LIBRARIES or package == "lora_ns":
            found = package != "lora_ns"
        traceback = traceback.tb_next
    return found


def _of_settings(traceback: TracebackType | None) -> bool:
    """True if the error occurred while `config.json` was read, which also happens for a tokenizer."""
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") in _READERS_OF_SETTINGS:
            return True
        traceback = traceback.tb_next
    return False


def _message(error: Exception, most: int = 300) -> str:
    """Return the first line of an error, with its type if the message alone is not a sentence."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    line = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    kind = "" if isinstance(error, _PLAIN) and line else type(error).__name__
    message = ": ".join(part for part in (kind, line) if part)
    return message if len(message) <= most else f"{message[:most]}..."
