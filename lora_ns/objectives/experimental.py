"""The door to `trl.experimental`, whose trainers may change, move or be removed in any release of TRL."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_ns.errors import MissingError, Problem
from lora_ns.files.shortage import exhaustion

PREFIX = "trl.experimental."
"""Start of the dotted name of everything behind the door."""

TESTED = "1.16"
"""Series of TRL in which the trainers are where this version of lorans expects them."""

_SILENCE = "TRL_EXPERIMENTAL_SILENCE"


def open_experimental(name: str, toml: str) -> Any:
    """Import a class of `trl.experimental`, without the warning that TRL gives for all of them.

    Args:
        name: dotted name, such as `trl.experimental.orpo.ORPOTrainer`.
        toml: name of the recipe table that needs it.

    Raises:
        MissingError: if this version of TRL has no such class.
    """
    module, _, attribute = name.rpartition(".")
    try:
        with _silenced():
            return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if exhaustion(error):
            raise
        raise MissingError(_lacking(error) or _moved(name, toml)) from error


def missing_module(name: str, toml: str) -> Problem | None:
    """The problem of a class whose module the installed TRL does not have, found without importing TRL.

    None if the module is there, or if TRL is not installed.
    """
    found = importlib.util.find_spec("trl")
    if not name.startswith(PREFIX) or found is None:
        return None
    module = Path(*name.split(".")[1:-1])
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    files = (module.with_suffix(".py"), module / "__init__.py")
    return None if any((folder / file).is_file() for folder in folders for file in files) else _moved(name, toml)


def _lacking(error: Exception) -> Problem | None:
    """The problem of another package that TRL's module imports and that is not installed."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return None if package in {"", "trl"} else Problem("", f"`{package}` is not installed", f"`pip install {package}`")


def _moved(name: str, toml: str) -> Problem:
    what = f"TRL {importlib.metadata.version('trl')} has no `{name}`; TRL may move or remove experimental trainers"
    return Problem("", what, f"`pip install 'trl=={TESTED}.*'`, or train with `[dpo]`", key=toml)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silence TRL's warning for the duration of an import, and restore the environment."""
    before = os.environ.get(_SILENCE)
    os.environ[_SILENCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SILENCE]
        else:
            os.environ[_SILENCE] = before
