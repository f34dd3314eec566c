"""The cache of tokenised rows: one folder for each combination of everything that determines them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.files.own_cache import cache_folder
from lora_ns.files.temporary import claim, release, remove_abandoned

_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Entry:
    """One cached set of rows."""

    key: str
    path: str
    size: int
    """Size in bytes."""
    used: float
    """Time of the last use, in seconds since the epoch."""


def entries() -> list[Entry]:
    """List the cache entries, last used first."""
    found = [
        Entry(folder.name, str(folder), _size(folder), folder.stat().st_mtime)
        for folder in _folders()
        if not folder.name.startswith(_UNFINISHED)
    ]
    return sorted(found, key=lambda entry: -entry.used)


def find(key: str) -> Path | None:
    """Return the folder of a key and mark it as used; None if there is none."""
    remove_abandoned(cache_folder(), _UNFINISHED)
    folder = cache_folder() / key
    if not folder.is_dir():
        return None
    os.utime(folder)
    return folder


def new_folder() -> Path:
    """Create a folder for a new entry, which counts only after `keep`."""
    parent = cache_folder()
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
        folder.mkdir()
        if claim(folder):
            return folder


def keep(folder: Path, key: str) -> Path:
    """Give a complete entry its name. If another run was faster, its entry stays and this one is removed."""
    target = cache_folder() / key
    try:
        folder.rename(target)
        release(folder)
    except OSError:
        if not target.is_dir():
            raise
        drop(folder)
    return target


def drop(folder: Path) -> None:
    """Remove an entry that is unreadable or unfinished."""
    shutil.rmtree(folder, ignore_errors=True)
    release(folder)


def clear() -> int:
    """Remove everything, including leftovers of killed runs; returns the number of bytes.

    Raises:
        UsageError: if something cannot be removed.
    """
    freed = 0
    for folder in list(_folders()):
        freed += _size(folder)
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise UsageError(
                Problem(str(folder), f"cannot be removed: {error.strerror}", "remove it by hand")
            ) from None
    return freed


def _folders() -> Iterator[Path]:
    parent = cache_folder()
    if parent.is_dir():
        yield from (entry for entry in parent.iterdir() if entry.is_dir())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
