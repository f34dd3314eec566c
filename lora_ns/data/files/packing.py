"""Files on the disk, compressed or not, decoded block by block."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING

from lora_ns.errors import DataError, MissingError, Problem
from lora_ns.files.reading import FREELY_UNPACKED, MOST_UNPACKED, NotAFileError, decode, open_file, shown_size

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def kind_of(path: PurePath) -> tuple[str, str]:
    """Split the suffixes of a file name into kind and compression, such as `.jsonl` and `.gz`; in lower case."""
    name = path.name.lower()
    packing = next((packing for packing in PACKINGS if name.endswith(packing)), "")
    return PurePath(name.removesuffix(packing)).suffix, packing


# Files, packed or not


class DamagedError(DataError):
    """A compressed file that cannot be decompressed to its end."""


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; a compressed file is decompressed on the fly."""
    packing = kind_of(path)[1]
    with _file(path) as file:
        try:
            yield _unpacked(path, file) if packing else file
        except EOFError:
            what = f"cut short, its {packing} has no end"
            raise DamagedError(Problem(str(path), what, "fetch or pack it again")) from None
        except _NotPackedError:
            raise DamagedError(Problem(str(path), f"damaged, or not {packing}", "fetch or pack it again")) from None


@contextlib.contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open_file(path) as file:
            yield file
    except NotAFileError as fault:
        raise DataError(Problem(str(path), fault.what)) from None


def _unpacked(path: Path, file: IO[bytes]) -> IO[bytes]:
    """Decompress a file, unless its size is out of proportion: a few bytes could expand to a full disk."""
    unpacked = io.BufferedReader(_Blocks(PACKINGS[kind_of(path)[1]](path, file)), BLOCK)

    def blocks() -> Iterator[bytes]:
        size = 0
        while block := unpacked.read(BLOCK):
            size += len(block)
            if size > max(FREELY_UNPACKED, MOST_UNPACKED * file.tell()):
                what = f"unpacks to more than {MOST_UNPACKED} times its size"
                raise DamagedError(Problem(str(path), what, "unpack it, and check its content"))
            yield block

    return io.BufferedReader(_Blocks(blocks()), BLOCK)


class _NotPackedError(Exception):
    """The data is damaged, or not compressed as the name says; each library has its own error for this."""


def _gzip(_: Path, file: IO[bytes]) -> Iterator[bytes]:
    unpacked = gzip.GzipFile(fileobj=file)
    try:
        while block := unpacked.read(BLOCK):
            yield block
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _NotPackedError(str(error)) from None


def _zstd(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Yield decompressed blocks; zstandard's own reader would accept a truncated file."""
    try:
        import zstandard
    except ImportError:
        raise MissingError(Problem(str(path), "reading .zst needs zstandard", "`pip install zstandard`")) from None

    unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    frame = None
    while block := file.read(_PACKED_BLOCK):
        while block:
            if frame is None or frame.eof:
                frame = unpacker.decompressobj()
            try:
                yield frame.decompress(block)
            except zstandard.ZstdError as error:
                raise _NotPackedError(str(error)) from None
            block = frame.unused_data
    if frame is not None and not frame.eof:
        raise EOFError


BLOCK = 1 << 16


_PACKED_BLOCK = 1 << 11
"""Bytes to decompress at once; each can expand to some ten thousand."""


_LARGEST_WINDOW = 1 << 31
"""Window size of `zstd --ultra --long=31`; zstandard would stop at 128 MB."""


class _Blocks(io.RawIOBase):
    """A file object for blocks of bytes."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        target = memoryview(buffer)
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def decoded_text(path: Path, most: int, remedy: str) -> str:
    """Read a whole file as text."""
    parts, size = [], 0
    with opened_file(path) as file:
        while part := file.read(BLOCK):
            parts.append(part)
            size += len(part)
            if size > most:
                raise DataError(Problem(str(path), f"is larger than {shown_size(most)}", remedy))
    return decode(b"".join(parts), str(path), DataError)


def not_utf8(where: str, error: UnicodeDecodeError) -> Problem:
    """Create the problem of a file that is not UTF-8."""
    return Problem(where, f"not UTF-8 at byte {error.start + 1} of the line", "save the file as UTF-8")


def without_end(line: str) -> str:
    """Remove the line end from a line."""
    return line.removesuffix("\n").removesuffix("\r")


PACKINGS: Mapping[str, Callable[[Path, IO[bytes]], Iterator[bytes]]] = {".gz": _gzip, ".zst": _zstd}
"""Decompressors by suffix; each yields blocks.

They raise `_NotPackedError` for damaged data, and `EOFError` for truncated data.
"""
