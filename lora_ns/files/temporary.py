"""Temporary files and folders, locked while in use, so that those of killed processes are recognised.

Creating one removes abandoned ones beside it.
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
"""Open descriptors by path. Their locks mark the paths as in use."""


def temporary_file(suffix: str) -> tuple[int, Path]:
    """Create a temporary file, in use until its descriptor is closed. Returns descriptor and path."""
    remove_abandoned(Path(tempfile.gettempdir()), _PREFIX)
    while True:
        handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=suffix)
        if try_lock(handle) and Path(name).exists():
            return handle, Path(name)
        os.close(handle)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a temporary folder, which is removed at the end."""
    remove_abandoned(Path(tempfile.gettempdir()), _PREFIX)
    while not claim(folder := Path(tempfile.mkdtemp(prefix=_PREFIX))):
        pass
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        release(folder)


def claim(path: Path) -> bool:
    """Mark a new file or folder as in use until `release`. Returns False if another process has removed it already."""
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
    """Mark a file or folder as no longer in use."""
    if (handle := _claimed.pop(path, None)) is not None:
        os.close(handle)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove the user's own files and folders with a name prefix that no process uses.

    Nothing is removed if the operating system or the file system does not support locks.
    """
    for path in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.geteuid() and try_lock(handle, if_unknown=False):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(handle)
