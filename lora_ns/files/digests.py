"""Digests of files for the lineage: SHA-256, of large files as a tree over chunks, so that all cores compute it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lora_ns.files.disk import sha256_file
from lora_ns.files.reading import NotAFileError, open_file

CHUNK = 16 * 1024 * 1024
"""Bytes of a chunk. A file of one chunk has its plain SHA-256."""

PLAIN, TREE = "sha256:", "sha256-16MiB:"
"""Prefixes of digests: the SHA-256 of a file, or of the concatenated SHA-256 values of its chunks."""

_BLOCK = 1 << 20

_MOST_THREADS = 8


@dataclass(frozen=True)
class Difference:
    """A file that is not the one whose digest was written down."""

    name: str
    expected: str
    found: str
    """Its digest, or why it has none."""


def digests_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Compute the digest of each file, all at once. Raises `OSError` if one cannot be read."""
    with ThreadPoolExecutor(_threads()) as pool:
        chunks = {name: _tree(pool, file) for name, file in files.items()}
        return {name: _joined([one.result() for one in parts]) for name, parts in chunks.items()}


def first_difference(files: Mapping[str, Path], expected: Mapping[str, str]) -> Difference | None:
    """The first file, in the order of `expected`, that is missing or has another digest; None if there is none.

    Args:
        files: the place of each file.
        expected: the digest of each of these files, in either form.
    """
    absent = {name: why for name, file in files.items() if name in expected and (why := _unreadable(file))}
    readable = {name: files[name] for name in expected if name not in absent}
    trees = {name: file for name, file in readable.items() if not _is_plain(file, expected[name])}
    with ThreadPoolExecutor(_threads()) as pool:
        plain = {name: pool.submit(_plain, file) for name, file in readable.items() if name not in trees}
        try:
            found = {**digests_of(trees), **{name: one.result() for name, one in plain.items()}}
        except OSError as error:
            return Difference(error.filename or "a file", "", f"cannot be read: {error.strerror}")
    for name, digest in expected.items():
        if (other := absent.get(name) or found[name]) != digest:
            return Difference(name, digest, other)
    return None


def names_in(folder: Path, apart: Iterable[str] = ()) -> dict[str, Path]:
    """The files of a folder by their paths in it, sorted, without hidden ones and those that are named `apart`."""
    left_out = set(apart)
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    named = {file.relative_to(folder).as_posix(): file for file in found}
    return {
        name: file
        for name, file in named.items()
        if name not in left_out and not any(part.startswith(".") for part in name.split("/"))
    }


def _threads() -> int:
    return min(_MOST_THREADS, os.cpu_count() or 1)


def _is_plain(file: Path, digest: str) -> bool:
    """True if a large file's digest was written as its plain SHA-256."""
    return digest.startswith(PLAIN) and file.stat().st_size > CHUNK


def _unreadable(file: Path) -> str:
    """Why a file cannot be read; empty if it can."""
    try:
        with open_file(file):
            return ""
    except NotAFileError as fault:
        return "is missing" if fault.is_missing else fault.what


def _plain(file: Path) -> str:
    return f"{PLAIN}{sha256_file(file)}"


def _tree(pool: ThreadPoolExecutor, file: Path) -> list[Future[bytes]]:
    size = file.stat().st_size
    return [pool.submit(_chunk, file, begin) for begin in range(0, max(size, 1), CHUNK)]


def _chunk(file: Path, begin: int) -> bytes:
    """The SHA-256 of one chunk, which is read in blocks."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as stream:
        stream.seek(begin)
        left = CHUNK
        while left and (block := stream.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.digest()


def _joined(chunks: list[bytes]) -> str:
    if len(chunks) == 1:
        return f"{PLAIN}{chunks[0].hex()}"
    return f"{TREE}{hashlib.sha256(b''.join(chunks)).hexdigest()}"
