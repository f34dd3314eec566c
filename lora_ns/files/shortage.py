"""What the system refuses, as one message: memory, open files, space on a disk, a place to write.

Python, torch, safetensors and the loader of libraries each say it in their own way.
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
"""A disk that is read-only by now, or that is lost."""


_FORBIDDEN = {errno.EACCES, errno.EPERM}


_FILE_WRITERS = ("PytorchStreamWriter", "inline_container", "open file failed", "fopen", "Parent directory")
"""Parts of what torch says when it cannot write a file."""


_NUMBERED = re.compile(r"os error (\d+)\)|\berrno[ :]+(\d+)", re.IGNORECASE)
"""How safetensors and torch write the number of the system's error."""


_NEARLY_NOTHING = 16 * 1024 * 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means too little memory: `torch.OutOfMemoryError` is a `RuntimeError` that says so."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, SystemError):  # what Python says where there was no memory left for the error itself
        return "without exception set" in str(error)
    return isinstance(error, (RuntimeError, OSError, ImportError)) and any(
        said in str(error).lower() for said in _NO_MEMORY
    )


def is_out_of_files(error: BaseException) -> bool:
    """Whether an error means too many open files."""
    return _number(error) in _NO_FILES or (
        isinstance(error, (RuntimeError, ImportError)) and os.strerror(errno.EMFILE).lower() in str(error).lower()
    )


def is_disk_full(error: BaseException, path: Path) -> bool:
    """Whether an error means that the disk of a path is full."""
    if _number(error) in _FULL:
        return True
    if isinstance(error, RuntimeError) and any(said in str(error) for said in _FILE_WRITERS[:2]):
        return shutil.disk_usage(existing(path)).free < _NEARLY_NOTHING
    return False


def exhaustion(error: BaseException) -> LoransError | None:
    """The message of an error, or of one that it came from, that means too little memory or too many open files."""
    for one in _with_causes(error):
        if is_out_of_files(one):
            return RunError(Problem("", os.strerror(errno.EMFILE).lower(), _MORE_FILES))
        if is_out_of_memory(one):
            return RunError(Problem("", "out of memory", "end what else uses memory, or raise the limit (`ulimit -v`)"))
    return None


_MORE_FILES = "raise the limit, such as by `ulimit -n 1024`"


def unwritable(error: BaseException, path: Path, elsewhere: str = "choose another folder") -> Problem | None:
    """What to say of an error that means that a file, or something in a folder, cannot be written.

    Args:
        error: any error.
        path: the file, or the folder.
        elsewhere: what to do if the place itself is no good.

    Returns:
        None if it means something else: a missing file in a folder that is there is a bug.
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
    """Whether an error means that a file or a folder is not there."""
    return _number(error) in _GONE


def check_writable(path: Path) -> Problem | None:
    """What to say of a folder in which nothing can be written, or that cannot be made."""
    nearest = existing(path)
    if not nearest.is_dir():
        return Problem(str(path), f"cannot be written: {nearest} is not a folder", "choose another folder")
    if os.access(nearest, os.W_OK | os.X_OK):
        return None
    read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
    reason = os.strerror(errno.EROFS if read_only else errno.EACCES)
    return Problem(str(path), f"cannot be written: {reason}", "choose another folder, or change that")


def existing(path: Path) -> Path:
    """A path, or the nearest folder above it that is there."""
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in seen:
        seen.append(one)
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _number(error: BaseException) -> int | None:
    """The system's number of an error: that of an `OSError`, or the one in what a library says of a file."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    is_of_torch = isinstance(error, RuntimeError) and any(said in text for said in _FILE_WRITERS)
    if type(error).__name__ != "SafetensorError" and not is_of_torch:
        return None
    if found := _NUMBERED.search(text):
        return int(found[1] or found[2])
    return errno.ENOENT if "does not exist" in text else None  # torch looks for the folder before it opens a file


def reason(error: BaseException) -> str:
    """What the system says of an error."""
    number = _number(error)
    said = error.strerror if isinstance(error, OSError) else None
    return said or (os.strerror(number) if number else str(error))


def _named(error: BaseException) -> Path | None:
    """The file that an error is about, as far as it says so."""
    named = getattr(error, "filename", None)
    return Path(os.fsdecode(named)).absolute() if isinstance(named, (str, bytes, os.PathLike)) else None


def _is_about(error: BaseException, path: Path) -> bool:
    """Whether an error is about something in a folder; of one that names nothing, whether it is of a disk at all."""
    named = _named(error)
    if named is None:
        return _number(error) in _LOST or not isinstance(error, OSError)
    whole = path.absolute()
    return whole in (named, *named.parents) or named in whole.parents
