"""Staging: files and folders are written under another name beside their target, by one command at a time.

The name is fixed and the lock is the operating system's. No process holds the lock on the remains of a killed command,
so that the next command for the same target clears and reuses them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.files.disk import follow_umask, sync, telling_disk_errors
from lora_ns.files.locks import try_lock
from lora_ns.files.reading import exists
from lora_ns.files.shortage import reason

_STREAMS = (stat.S_ISCHR, stat.S_ISFIFO)
"""Targets that are written directly: devices such as /dev/null, and named pipes."""


class Output:
    """Output of lines. A file appears once all are written; a device or a pipe is written to directly."""

    def __init__(self, path: Path, handle: int, part: Path | None, target: Path) -> None:
        self.path, self._handle, self._part, self._target = path, handle, part, target

    @property
    def target(self) -> Path | None:
        """The file that appears in the end; None for a device or a pipe."""
        return self._target if self._part else None

    def write(self, lines: Iterable[str]) -> None:
        """Write all lines. Raises `RunError` if there is no space, and keeps the lines written so far."""
        try:
            self._write(lines)
            if self._part:
                self._part.replace(self._target)
        except OSError as error:
            kept = self._keep() if self._part and exists(self._part) else None
            remedy = f"the lines written so far are in {kept}" if kept else ""
            raise RunError(Problem(str(self.path), f"cannot be written: {reason(error)}", remedy)) from None

    def keep(self, lines: Iterable[str]) -> Path | None:
        """Write the lines of an unfinished output to a file beside the target, and return its path.

        Returns:
            None for a device or a pipe.

        Raises:
            RunError: if they cannot be written.
        """
        if self._part is None:
            return None
        try:
            self._write(lines)
            return self._keep()
        except OSError as error:
            what = f"cannot be written: {reason(error)}"
            raise RunError(Problem(str(self.path), what, "check that its folder exists and has space")) from None

    def _write(self, lines: Iterable[str]) -> None:
        with open(self._handle, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as file:
            file.writelines(f"{line}\n" for line in lines)
        if self._part:
            os.fsync(self._handle)

    def _keep(self) -> Path:
        """Rename the staged file to a free name that no other command clears."""
        assert self._part is not None, "a device keeps nothing"
        names = (f"{self._target.name}.part{number or ''}" for number in itertools.count())
        free = next(path for name in names if not (path := self._target.with_name(name)).exists())
        self._part.rename(free)
        self._part = None
        return free

    def close(self) -> None:
        """Remove the staged file, if it is still there, and release the lock."""
        if self._part and self._part.exists():
            self._part.unlink()
        os.close(self._handle)


@contextlib.contextmanager
def output(path: Path, overwrite: bool) -> Iterator[Output]:
    """Open a file of lines for writing and lock out other commands. An unwritable path raises at once.

    Through a link, its target is written and the link stays.

    Raises:
        UsageError: if the file exists and `overwrite` is false, is no file, cannot be written, or another command is
            writing it.
    """
    with _reporting_errors(path):
        opened = _open_output(path, overwrite)
    try:
        yield opened
    finally:
        opened.close()


def target_of(path: Path) -> Path:
    """Resolve a path. The target of a link need not exist.

    Raises:
        UsageError: if a link leads to itself, or its target cannot be accessed.
    """
    with _reporting_errors(path):
        _mode(path)
    return Path(os.path.realpath(path))


def _mode(path: Path) -> int | None:
    """The file mode of a path's target; None if it does not exist. Raises `OSError`."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _open_output(path: Path, overwrite: bool) -> Output:
    mode = _mode(path)
    if mode is not None and (any(is_kind(mode) for is_kind in _STREAMS) or _is_own_descriptor(path)):
        return Output(path, os.open(path, os.O_WRONLY | os.O_APPEND), None, path)
    if mode is not None and not stat.S_ISREG(mode):
        raise UsageError(Problem(str(path), "is not a file", "name a file, a pipe or a device"))
    if mode is not None and not overwrite:
        raise UsageError(Problem(str(path), "already exists", "name another file, or add `--overwrite`"))
    target = Path(os.path.realpath(path))
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(13, os.strerror(13))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = staged_beside(target)
    handle = _locked(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, path)
    os.ftruncate(handle, 0)
    return Output(path, handle, part, target)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Create a staging folder for a target and lock out other commands. The caller renames it; otherwise it is removed.

    Raises:
        UsageError: if the target cannot be written, or another command is writing it.
    """
    staged = staged_beside(path)
    with _reporting_errors(path):
        _mode(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.mkdir(exist_ok=True)
        handle = _locked(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, path)
        for entry in staged.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        os.close(handle)


def free_folder(path: Path) -> Path:
    """Resolve the path of a folder to write, which may be there if it is empty.

    Raises:
        UsageError: if it is a file or has any content, or its place cannot be accessed.
    """
    target = target_of(path)
    if target.exists() and not target.is_dir():
        raise UsageError(Problem(str(path), "is not a folder", "choose another `--output`"))
    if target.exists() and any(target.iterdir()):
        raise UsageError(Problem(str(path), "is not empty", "choose another `--output`"))
    return target


def put(staged: Path, target: Path) -> None:
    """Give a staged folder its name once everything in it is on the disk. An empty folder there is replaced."""
    with telling_disk_errors(target):
        follow_umask(staged)
        sync(staged)
        staged.rename(target)
        sync(target.parent)


def staged_beside(path: Path) -> Path:
    """The path where a file or a folder is written until it is complete."""
    return path.with_name(f".{path.name}.lorans-new")


def _locked(staged: Path, flags: int, path: Path) -> int:
    """Open and lock the staged file or folder. Raises `UsageError` if another command holds the lock."""
    while True:
        handle = os.open(staged, flags, 0o666)
        if not try_lock(handle):
            os.close(handle)
            raise UsageError(Problem(str(path), "another command is writing it", "wait for it, or name another place"))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), staged.stat()):
                return handle
        os.close(handle)  # the command that held it has renamed it since
        if flags & os.O_DIRECTORY:
            staged.mkdir(exist_ok=True)


def _is_own_descriptor(path: Path) -> bool:
    """True for one of this process's own descriptors, such as /dev/stdout."""
    return str(path.parent.resolve()) in {"/dev/fd", f"/proc/{os.getpid()}/fd"} or str(path) in {
        "/dev/stdout",
        "/dev/stderr",
    }


@contextlib.contextmanager
def _reporting_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {reason(error)}"
        raise UsageError(Problem(str(path), what, "choose another place")) from None
