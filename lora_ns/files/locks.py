"""Locks of the operating system on files and folders. A lock ends when no process holds its descriptor open."""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""Errors of file systems that cannot lock a directory, such as NFS."""


def try_lock(handle: int, shared: bool = False, if_unknown: bool = True) -> bool:
    """Lock an open file or folder until it is closed.

    Args:
        handle: its descriptor.
        shared: take a shared lock, which other processes can share, and wait for an exclusive one to end.
        if_unknown: result if the operating system or the file system does not support locks.

    Returns:
        False if another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return if_unknown
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return if_unknown
    return True


def is_locked(path: Path) -> bool | None:
    """Return whether another process holds the exclusive lock on a file or folder; None if it cannot be known.

    A shared lock is taken for an instant, which fails while another process holds the exclusive one.
    """
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False if _is_on_own_disk(path) else None


def _is_on_own_disk(path: Path) -> bool:
    """True if no other machine can hold a lock on this path: its file system is one of a disk of this machine."""
    try:
        return _is_own_disk(path.stat().st_dev)
    except OSError:
        return False


@functools.cache
def _is_own_disk(device: int) -> bool:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return False
    name = f"{os.major(device)}:{os.minor(device)}"
    return any(line.split()[2] == name and line.partition(" - ")[2].split(" ")[0] in _OWN_DISKS for line in mounts)


_OWN_DISKS = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""File systems that only one machine mounts. A lock on a shared one may be visible on one machine alone."""
