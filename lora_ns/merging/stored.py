"""The tensors of a base's weight files, memory-mapped one at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.files.safetensors import read_header

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1 << 20
"""Values that are converted or copied at a time."""


DTYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "F32": "float32",
    "I64": "int64",
    "F64": "float64",
}
"""Dtypes that are read and written: names in torch, by their names in safetensors."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file."""

    file: Path
    dtype: str
    """Its dtype, by the name in safetensors."""
    shape: tuple[int, ...]
    begin: int
    """Offset of the first byte in the file."""

    def read(self) -> Tensor:
        """Map the tensor. Its pages leave memory when nothing refers to it any more; writing to it changes no file."""
        return self._mapped(0, self.shape)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Map the tensor in flat blocks of at most so many values."""
        count = math.prod(self.shape)
        for first in range(0, count, size):
            yield self._mapped(first, (min(size, count - first),))

    def _mapped(self, first: int, shape: tuple[int, ...]) -> Tensor:
        import torch

        dtype = getattr(torch, DTYPES[self.dtype])
        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        begin = self.begin + first * dtype.itemsize
        skipped = begin % mmap.ALLOCATIONGRANULARITY
        with self.file.open("rb") as file:
            pages = mmap.mmap(
                file.fileno(), skipped + count * dtype.itemsize, access=mmap.ACCESS_COPY, offset=begin - skipped
            )
        if skipped % dtype.itemsize:  # only a file that another library wrote
            return torch.frombuffer(bytearray(pages[skipped:]), dtype=dtype).reshape(shape)
        return torch.frombuffer(pages, dtype=dtype, count=count, offset=skipped).reshape(shape)


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """Return the tensors of weight files by name. Raises `ModelError` if a file is broken."""
    found: dict[str, Stored] = {}
    for file in files:
        header, start = read_header(file)
        found |= {name: _stored(file, start, entry) for name, entry in header.items()}
    return found


def _stored(file: Path, start: int, entry: Mapping[str, Any]) -> Stored:
    return Stored(file, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
