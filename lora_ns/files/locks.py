"""Locks of the operating system on files and folders: each ends with the last process that has it open."""

from __future__ import annotations

import errno

_NO_LOCKS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""How disks say that they cannot lock a directory, as NFS does."""


def try_lock(handle: int, shared: bool = False, if_unknown: bool = True) -> bool:
    """Lock an open file or folder until it is closed.

    Args:
        handle: its descriptor.
        shared: whether others may lock it as well, each shared; waits for a lock that is not.
        if_unknown: what to answer where the system or the disk knows of no locks.

    Returns:
        False if another process has it.
    """
    try:
        import fcntl
    except ImportError:  # as on Windows
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
