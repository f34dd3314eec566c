"""Atomic writes, disk space, permissions, SHA-256 hashes and timestamps."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from datetime import datetime, timezone
from pathlib import Path

from lora_ns.errors import LoransError, Problem, RunError
from lora_ns.files.shortage import existing, reason, unwritable


def now() -> str:
    """The current time in UTC, in ISO 8601 to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically, with the permissions that the umask allows.

    Raises:
        RunError: if there is no space or no permission.
    """
    data = content.encode() if isinstance(content, str) else content
    with telling_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def follow_umask(folder: Path) -> None:
    """Give the files of a folder the permissions that the umask allows. Libraries write some for the owner only."""
    probe = folder / f".umask.{secrets.token_hex(4)}"  # reading the umask itself would change it
    probe.touch(exist_ok=False)
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def sync(folder: Path) -> None:
    """Make sure that the files of a folder, and their names, are on the disk."""
    for path in (*(file for file in folder.iterdir() if file.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class telling_disk_errors:  # noqa: N801 -- reads as a verb in `with`
    """Turn the error of a full disk, a missing permission or a missing folder into a `RunError` of one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LoransError):
            return
        if problem := unwritable(error, self._path):
            raise RunError(problem) from None
        if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, TimeoutError)):
            raise RunError(Problem(str(self._path), f"cannot be written: {reason(error)}", "choose another folder"))


def check_space(path: Path, needed: int) -> None:
    """Check that a disk has room for `needed` bytes.

    Raises:
        RunError: if it has not, with the needed and the free space.
    """
    free = shutil.disk_usage(existing(path)).free
    if free < needed and os.statvfs(existing(path)).f_blocks:  # a file system without blocks, such as /proc, is no disk
        what = f"no space left on the disk: about {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free"
        raise RunError(Problem(str(path), what, "free some space, or choose another folder"))


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def hash_folder(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path in the folder."""
    return {str(file.relative_to(folder)): sha256_file(file) for file in sorted(folder.rglob("*")) if file.is_file()}
