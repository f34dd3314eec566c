"""Marks: `lorans.json`, written last, records the size and hash of every file of a complete folder."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError
from lora_ns.files.disk import sha256_file, write_atomic
from lora_ns.files.reading import LARGEST_LIST, NotAFileError, open_file, read_json
from lora_ns.files.safetensors import read_header

MARK = "lorans.json"
"""File name of a mark. A folder that should have one and does not is incomplete."""


@dataclass(frozen=True)
class Fault:
    """A file of a folder that is damaged, missing or foreign."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} {self.what}"


@dataclass(frozen=True)
class Mark:
    """The contents of a folder when it was complete."""

    sizes: Mapping[str, int]
    """Size of each file in bytes, by its path in the folder."""
    sha256: Mapping[str, str]
    """SHA-256 of each file; empty in marks of earlier versions, which stored sizes only."""
    extra: Mapping[str, Any]
    """Further entries, as given to `mark_folder`."""


def mark_folder(folder: Path, **extra: Any) -> None:
    """Mark a folder as complete, with the size and SHA-256 of every file and any further entries."""
    names = sorted(_names(folder))
    sizes = {name: (folder / name).stat().st_size for name in names}
    hashes = {name: sha256_file(folder / name) for name in names}
    write_atomic(folder / MARK, json.dumps({**extra, "files": sizes, "sha256": hashes}, indent=2))


def read_mark(folder: Path) -> Mark | Fault | None:
    """Read the mark of a folder: None if there is none, a `Fault` if the mark is damaged."""
    if not os.path.lexists(folder / MARK):
        return None
    try:
        table = read_json(folder / MARK)
        sizes, hashes = table.pop("files"), table.pop("sha256", {})
        is_mark = all(isinstance(size, int) for size in sizes.values()) and hashes.keys() <= sizes.keys()
    except (LoransError, KeyError, TypeError, AttributeError) as error:
        return Fault(MARK, f"is damaged ({_reason(error)})")
    return Mark(sizes, hashes, table) if is_mark else Fault(MARK, "is damaged (not a mark)")


def fault_of(folder: Path, mark: Mark | Fault | None = None) -> Fault | None:
    """The first file of a folder that is damaged, missing or foreign; None if all files are as they were written.

    Without a mark, and for files without a hash, only the file format is checked: JSON, safetensors, and torch's zip
    archives.

    Args:
        folder: the folder.
        mark: its mark, if already read.
    """
    if fault := no_file_in(folder):
        return fault
    mark = mark or read_mark(folder)
    if isinstance(mark, Fault):
        return mark
    if mark is None:
        return next(filter(None, (_broken_form(folder, name) for name in sorted(_names(folder)))), None)
    foreign = sorted(_names(folder) - mark.sizes.keys())
    if foreign:
        return Fault(foreign[0], "was added after the folder was written")
    return next(filter(None, (_fault(folder, name, mark) for name in mark.sizes)), None)


def no_file_in(folder: Path) -> Fault | None:
    """The first entry of a folder that is neither a file nor a folder, such as a pipe: reading it might never end."""
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and not path.is_file():
            return Fault(path.relative_to(folder).as_posix(), _what_is(path))
    return None


def _what_is(path: Path) -> str:
    try:
        with open_file(path):
            return "cannot be read"  # it has become a file since
    except NotAFileError as fault:
        return "is a broken link" if fault.is_missing else fault.what


def has_all_files(folder: Path, mark: Mark) -> bool:
    """Check the size of each file. This is cheap and proves nothing about the contents."""
    return all((folder / name).is_file() and (folder / name).stat().st_size == mark.sizes[name] for name in mark.sizes)


def _fault(folder: Path, name: str, mark: Mark) -> Fault | None:
    file = folder / name
    if not file.is_file():
        return Fault(name, "is missing")
    if (size := file.stat().st_size) != mark.sizes[name]:
        return Fault(name, f"is damaged ({size:,} of {mark.sizes[name]:,} bytes)")
    if name not in mark.sha256:
        return _broken_form(folder, name)
    try:
        is_whole = sha256_file(file) == mark.sha256[name]
    except OSError as error:
        return Fault(name, f"cannot be read ({_reason(error)})")
    return None if is_whole else Fault(name, "is damaged (its SHA-256 differs)")


def _broken_form(folder: Path, name: str) -> Fault | None:
    """The fault in a file that its format reveals, if it has one of the known formats."""
    file = folder / name
    try:
        if file.suffix == ".json":
            read_json(file, most=LARGEST_LIST)
        elif file.suffix == ".safetensors":
            read_header(file)
        elif file.suffix in {".pt", ".pth"}:
            with zipfile.ZipFile(file) as archive:
                if (part := archive.testzip()) is not None:
                    return Fault(name, f"is damaged (the checksum of {part} differs)")
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, LoransError) as error:
        return Fault(name, f"is damaged ({_reason(error)})")
    return None


def _names(folder: Path) -> set[str]:
    return set(_walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    """Files of a folder, without its mark and without hidden files, which file systems and editors leave behind."""
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        if file.is_file() and path.as_posix() != MARK and not any(part.startswith(".") for part in path.parts):
            yield path.as_posix()


def _reason(error: Exception) -> str:
    if isinstance(error, LoransError):
        return error.problems[0].what
    return " ".join(str(error).split())[:100] or type(error).__name__
