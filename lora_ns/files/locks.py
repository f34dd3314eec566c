"""Locks of the operating system on files and folders. A lock ends when no process holds its descriptor open."""

from __future__ import annotations

import errno

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
