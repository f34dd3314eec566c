"""Locks of interrupted builds of torch's C++ extensions, for which torch would wait forever.

DeepSpeed and PEFT's BOFT compile extensions when they are first used. `torch.utils.cpp_extension` marks a build with a
file `lock` in the extension's folder, and every other process waits until that file is gone. A build that is killed
leaves it behind, and from then on every run that needs the extension hangs without a word.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_LONGEST = 1800.0
"""Seconds after which a build must be over of which this machine cannot tell whether it is still running."""


def end_abandoned_builds() -> None:
    """Remove the locks of builds that no process is working on.

    A process that builds keeps its lock open (`torch.utils.file_baton.FileBaton`). Locks on a file system of several
    machines, or of another user, are removed when they are older than any build takes.
    """
    for lock in _locks():
        with contextlib.suppress(OSError):  # its process has just removed it, or another one that looks here too
            found = lock.stat()
            if _is_abandoned(lock, found) and os.path.samestat(found, lock.stat()):
                lock.unlink()


def _locks() -> Iterator[Path]:
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is not None:
        return Path(root).glob("*/lock")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (cache / "torch_extensions").glob("*/*/lock")


def _is_abandoned(lock: Path, found: os.stat_result) -> bool:
    if _is_open_here(found):
        return False
    is_ours = found.st_uid == os.getuid() and not _is_shared(lock)
    return is_ours or time.time() - found.st_mtime > _LONGEST


def _is_open_here(found: os.stat_result) -> bool:
    """True if a process of this user and machine has this file open."""
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # of another user, or just closed
            if os.path.samestat(found, handle.stat()):
                return True
    return False


def _is_shared(path: Path) -> bool:
    """True if other machines may see this file, too: it lies on no file system of a device of this machine."""
    import psutil  # a dependency of accelerate

    at = path.resolve()
    mounts = {Path(found.mountpoint): found for found in psutil.disk_partitions(all=True)}
    nearest = next((mounts[folder] for folder in at.parents if folder in mounts), None)
    return nearest is None or not (nearest.device.startswith("/dev/") or nearest.fstype in _OF_ONE_MACHINE)


_OF_ONE_MACHINE = {"btrfs", "ext4", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
