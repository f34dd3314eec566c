"""Recognition of exhausted resources: memory, open files, disk space, permission to write.

Python, torch, safetensors and the dynamic linker each report them in their own words.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from lora_ns.errors import LoransError, Problem, RunError

_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "cannot create thread specific data",
    "defaultcpuallocator",
    "failed to map segment from shared object",
    "out of memory",
)


_FULL = {errno.ENOSPC, errno.EDQUOT}


_NO_FILES = {errno.EMFILE, errno.ENFILE}


_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}


_LOST = {errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO}
"""Errors of a disk that has become read-only or unavailable."""


_FORBIDDEN = {errno.EACCES, errno.EPERM}


_FILE_WRITERS = ("PytorchStreamWriter", "inline_container", "open file failed", "fopen", "Parent directory")
"""Parts of torch's messages when it cannot write a file."""


_NUMBERED = re.compile(r"os error (\d+)\)|\berrno[ :]+(\d+)", re.IGNORECASE)
"""The errno in messages of safetensors and torch."""


_NEARLY_NOTHING = 16 * 1024 * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """True if an error means that memory ran out. `torch.OutOfMemoryError` is a `RuntimeError` with such a message."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, SystemError):  # Python raises this if no memory is left for the error itself
        return "without exception set" in str(error)
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(
        part in str(error).lower() for part in _NO_MEMORY
    )


def is_out_of_files(error: BaseException) -> bool:
    """True if an error means too many open files."""
    return _number(error) in _NO_FILES or (
        isinstance(error, (RuntimeError, ImportError)) and os.strerror(errno.EMFILE).lower() in str(error).lower()
    )


def is_disk_full(error: BaseException, path: Path) -> bool:
    """True if an error means that the disk of a path is full."""
    if _number(error) in _FULL:
        return True
    if isinstance(error, RuntimeError) and any(part in str(error) for part in _FILE_WRITERS[:2]):
        return shutil.disk_usage(existing(path)).free < _NEARLY_NOTHING
    return False


def exhaustion(error: BaseException) -> LoransError | None:
    """The error to raise if an error, or one of its causes, means too little memory or too many open files."""
    for one in _with_causes(error):
        if is_out_of_files(one):
            return RunError(Problem("", os.strerror(errno.EMFILE).lower(), _MORE_FILES))
        if is_out_of_memory(one):
            return RunError(Problem("", "out of memory", "stop other programs, or raise the limit (`ulimit -v`)"))
    return None


_MORE_FILES = "raise the limit, for instance with `ulimit -n 1024`"


def unwritable(error: BaseException, path: Path, elsewhere: str = "choose another folder") -> Problem | None:
    """The problem to report if an error means that a file, or a file in a folder, cannot be written.

    Args:
        error: any error.
        path: the file or the folder.
        elsewhere: remedy if the place itself is unusable.

    Returns:
        None if the error means something else. A missing file in an existing folder is a bug.
    """
    number = _number(error)
    if is_disk_full(error, path):
        return Problem(str(path), "no space left on the disk", "free some space")
    if is_out_of_files(error):
        return Problem(str(path), f"cannot be written: {os.strerror(errno.EMFILE).lower()}", _MORE_FILES)
    is_lost = number in _GONE and (
        _named(error) in (path.absolute(), *path.absolute().parents) or not path.parent.is_dir()
    )
    if is_lost or (number in _LOST | _FORBIDDEN and _is_about(error, path)):
        return Problem(str(path), f"cannot be written: {reason(error)}", elsewhere)
    return None


def is_gone(error: BaseException) -> bool:
    """True if an error means that a file or a folder does not exist."""
    return _number(error) in _GONE


def check_writable(path: Path) -> Problem | None:
    """The problem to report if a folder cannot be written to or created."""
    nearest = existing(path)
    if not nearest.is_dir():
        return Problem(str(path), f"cannot be written: {nearest} is not a folder", "choose another folder")
    if os.access(nearest, os.W_OK | os.X_OK):
        return None
    read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
    reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
    return Problem(str(path), f"cannot be written: {reason}", "choose another folder, or make it writable")


def existing(path: Path) -> Path:
    """A path, or its nearest parent folder that exists."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _number(error: BaseException) -> int | None:
    """The errno of an `OSError`, or the one in a library's message about a file."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    is_of_torch = isinstance(error, RuntimeError) and any(part in text for part in _FILE_WRITERS)
    if type(error).__name__ != "SafetensorError" and not is_of_torch:
        return None
    if found := _NUMBERED.search(text):
        return int(found[1] or found[2])
    return errno.ENOENT if "does not exist" in text else None  # torch checks the folder before it opens a file


def reason(error: BaseException) -> str:
    """The operating system's description of an error."""
    number = _number(error)
    description = error.strerror if isinstance(error, OSError) else None
    return description or (os.strerror(number) if number else str(error))


def _named(error: BaseException) -> Path | None:
    """The file that an error names, if any."""
    named = getattr(error, "filename", None)
    return Path(os.fsdecode(named)).absolute() if isinstance(named, (str, bytes, os.PathLike)) else None


def _is_about(error: BaseException, path: Path) -> bool:
    """True if an error names a path inside or above `path`, or names none and comes from the disk."""
    named = _named(error)
    if named is None:
        return _number(error) in _LOST or not isinstance(error, OSError)
    whole = path.absolute()
    return whole in (named, *named.parents) or named in whole.parents
