"""Safetensors files of a chosen size that are written tensor by tensor in any order, and their index."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.errors import Problem, RunError, UsageError
from lora_ns.merging.pool import Pool
from lora_ns.merging.stored import DTYPES
from lora_ns.model.folder import INDEX, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

LARGEST_SHARD = "50GB"
"""Largest size of a weight file, as transformers writes it."""


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]B)", re.IGNORECASE)


def bytes_of(size: str) -> int:
    """Read a size such as `5GB`. Raises `UsageError`."""
    found = _SIZE.fullmatch(size.strip())
    if found is None or int(float(found[1]) * _UNITS[found[2].upper()]) == 0:
        what = f"`{size}` is not a size of a file"
        raise UsageError(Problem("--max-shard-size", what, "write a number and a unit: `500MB` or `5GB`"))
    return int(float(found[1]) * _UNITS[found[2].upper()])


_ALIGNMENT = 8
"""Multiple of bytes to which safetensors pads the header."""


@dataclass(frozen=True)
class Entry:
    """A tensor to write."""

    name: str
    dtype: str
    """Its dtype, by the name in torch."""
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        import torch

        return int(getattr(torch, self.dtype).itemsize)

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.itemsize


def split(entries: Iterable[Entry], largest: int) -> list[list[Entry]]:
    """Divide tensors among shards in their order, as transformers does: a tensor larger than a shard gets its own."""
    shards: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if not shards or entry.size > room:
            shards.append([])
            room = largest
        shards[-1].append(entry)
        room -= entry.size
    return shards


_AHEAD = 2
"""Blocks that may wait for the disk while the next are computed."""


class ShardWriter:
    """Weight files in a folder. All of them are created with their full size at once, and filled in any order.

    A thread writes. Blocks must keep their values until `finish`.
    """

    def __init__(self, folder: Path, entries: Sequence[Entry], largest: int) -> None:
        self._folder = folder
        self._left = {entry.name: entry for entry in entries}
        self._places: dict[str, tuple[int, int]] = {}
        self._handles: list[int] = []
        self._thread = ThreadPoolExecutor(1, "writer")
        self._pending: deque[Future[None]] = deque()
        shards = split(entries, largest)
        names = [WEIGHTS] if len(shards) == 1 else [_name(number, len(shards)) for number in range(1, len(shards) + 1)]
        self._index = {entry.name: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        self._totals = {
            "total_parameters": sum(math.prod(entry.shape) for entry in entries),
            "total_size": sum(entry.size for entry in entries),
        }
        for name, shard in zip(names, shards, strict=True):
            self._create(folder / name, shard)

    def _create(self, file: Path, shard: Iterable[Entry]) -> None:
        """Write the header of a shard. Tensors of larger values come first, so that each is aligned."""
        kinds = {torch_name: name for name, torch_name in DTYPES.items()}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        begins, end = {}, 0
        for entry in sorted(shard, key=lambda entry: (-entry.itemsize, entry.name)):
            begins[entry.name] = end
            header[entry.name] = {
                "dtype": kinds[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": [end, end + entry.size],
            }
            end += entry.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self._handles.append(handle)
        _write_all(handle, struct.pack("<Q", len(text)) + text, 0)
        os.truncate(handle, 8 + len(text) + end)
        self._places |= {name: (handle, 8 + len(text) + begin) for name, begin in begins.items()}

    @property
    def left(self) -> Mapping[str, Entry]:
        """The tensors that are not written yet."""
        return self._left

    def write(self, name: str, blocks: Iterable[Tensor]) -> None:
        """Write a tensor in blocks that together have its values, and round them to its dtype.

        Raises:
            RunError: if the dtype cannot hold a value.
            ValueError: if the blocks have another number of values than the tensor.
        """
        import torch

        entry = self._left.pop(name)
        handle, begin = self._places[name]
        offset = begin
        for block in blocks:
            values = rounded(name, block.detach(), entry.dtype).contiguous()
            data = memoryview(values.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            self._wait(_AHEAD)
            self._pending.append(self._thread.submit(_write_all, handle, data, offset))
            offset += data.nbytes
        if offset - begin != entry.size:
            raise ValueError(f"`{name}` has {entry.size:,} bytes, and {offset - begin:,} were written")

    def _wait(self, count: int) -> None:
        """Wait until fewer blocks than a number wait for the disk. Raises `OSError` if one cannot be written."""
        while len(self._pending) >= count:
            self._pending.popleft().result()

    def finish(self) -> None:
        """Write what waits, and the index, if there are several files."""
        self._wait(1)
        assert not self._left, f"not written: {min(self._left)}"
        if len(self._handles) > 1:
            index = {"metadata": self._totals, "weight_map": dict(sorted(self._index.items()))}
            (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        """Close the files, and remove those of an unfinished merge."""
        self._thread.shutdown(cancel_futures=True)
        while self._handles:
            os.close(self._handles.pop())
        if error is not None:
            for name in set(self._index.values()):
                (self._folder / name).unlink(missing_ok=True)


def rounded(name: str, values: Tensor, dtype: str, pool: Pool | None = None) -> Tensor:
    """Convert values of a tensor to a dtype, in memory of a pool. Raises `RunError` if it cannot hold one of them."""
    import torch

    found = (pool or Pool()).cast(values, getattr(torch, dtype))
    if found.dtype != values.dtype and not is_finite(found) and is_finite(values):
        remedy = "write another dtype: `--dtype bfloat16` or `--dtype float32`"
        raise RunError(Problem("", f"`{name}` has values that are too large for {dtype}", remedy))
    return found


def is_finite(values: Tensor) -> bool:
    """True if no value is infinite or NaN. Their sum tells in a single pass, unless it is too large itself."""
    import torch

    kind = torch.float32 if values.dtype == torch.float16 else None  # others have room for the sum
    return bool(values.sum(dtype=kind).isfinite()) or bool(values.isfinite().all())


def _name(number: int, count: int) -> str:
    return f"model-{number:05}-of-{count:05}.safetensors"


def _write_all(handle: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
