"""Temporary files and folders that are locked while they are used, so that those of killed processes are known.

Whoever makes one removes what was abandoned beside it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lora_ns.files.locks import try_lock

_PREFIX = "lorans-temporary-"


_claimed: dict[Path, int] = {}
"""The open descriptors whose locks say that this process uses them."""


def temporary_file(suffix: str) -> tuple[int, Path]:
    """A new file among the temporary ones, in use until its descriptor is closed; descriptor and path."""
    remove_abandoned(Path(tempfile.gettempdir()), _PREFIX)
    while True:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=suffix)
        if try_lock(handle) and Path(name).exists():
            return handle, Path(name)
        os.close(handle)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder among the temporary ones, removed at the end."""
    remove_abandoned(Path(tempfile.gettempdir()), _PREFIX)
    while not claim(folder := Path(tempfile.mkdtemp(prefix=_PREFIX))):
        pass
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release(folder)


def claim(path: Path) -> bool:
    """Use a file or folder that was just made, until `release`; False if it is gone, since it was not in use yet."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    if try_lock(handle) and path.exists():
        _claimed[path] = handle
        return True
    os.close(handle)
    return False


def release(path: Path) -> None:
    """Use a file or folder no longer."""
    if (handle := _claimed.pop(path, None)) is not None:
        os.close(handle)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the user's own files and folders whose name begins so, and that no process uses.

    Where the system or the disk knows of no locks, none is removed.
    """
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid() and try_lock(handle, if_unknown=False):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)
