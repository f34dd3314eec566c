"""Memory for large tensors that is used again: the system zeroes new memory, which takes longer than to merge."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import mmap
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LARGE = 1 << 18
"""Values from which a tensor gets memory of the pool."""
_SPILLED = 1 << 12
"""Values from which a tensor is moved to a file."""


@dataclass
class Pool:
    """Gives tensors memory, and takes it back when nothing refers to them any more."""

    _pieces: list[_Piece] = field(default_factory=list)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor with any values."""
        import torch

        count = math.prod(shape)
        if count < _LARGE:
            return torch.empty(tuple(shape), dtype=dtype)
        memory = self._piece(count * dtype.itemsize).lend()
        return torch.frombuffer(memory, dtype=dtype, count=count).reshape(tuple(shape))

    def cast(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return values in a dtype: the same tensor if they have it."""
        return values if values.dtype == dtype else self.empty(values.shape, dtype).copy_(values)

    def _piece(self, size: int) -> _Piece:
        """The smallest free piece that is large enough. If none is, a new one takes the place of the largest free."""
        free = sorted((piece for piece in self._pieces if piece.is_free), key=lambda piece: len(piece.pages))
        found = next((piece for piece in free if len(piece.pages) >= size), None)
        if found is None:
            if free:
                self._pieces.remove(free.pop())
            found = _Piece(_anonymous(size))
            self._pieces.append(found)
        return found

    def clear(self) -> None:
        """Give what is free back to the system."""
        self._pieces = [piece for piece in self._pieces if not piece.is_free]

    def for_results(self) -> AbstractContextManager[Any]:
        """Give memory of the pool to the large sums and products that are computed in the block, by whatever code."""
        return _results()(self)


@dataclass(eq=False)
class _Piece:
    pages: mmap.mmap
    _lent: weakref.ref[memoryview] | None = None

    @property
    def is_free(self) -> bool:
        """True if no tensor has this memory: torch holds what it was given until then."""
        return self._lent is None or self._lent() is None

    def lend(self) -> memoryview:
        view = memoryview(self.pages)
        self._lent = weakref.ref(view)
        return view


def _anonymous(size: int) -> mmap.mmap:
    pages = mmap.mmap(-1, size)
    with contextlib.suppress(OSError, AttributeError):  # where there are no huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


@functools.cache
def _results() -> Callable[[Pool], AbstractContextManager[Any]]:
    """The class of a mode of torch that computes some operations into memory of a pool."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    into = {aten.mm.default: aten.mm.out, aten.mul.Tensor: aten.mul.out, aten.add.Tensor: aten.add.out}

    class Results(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self, pool: Pool) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self._pool = pool

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            if func not in into or kwargs or not all(map(_is_plain, tensors)):
                return func(*args, **(kwargs or {}))
            shape = [len(args[0]), args[1].shape[1]] if func is aten.mm.default else _broadcast(tensors)
            return into[func](*args, out=self._pool.empty(shape, torch.float32))

    return Results


def _broadcast(tensors: Sequence[Tensor]) -> Sequence[int]:
    import torch

    shape: Sequence[int] = torch.broadcast_shapes(*(value.shape for value in tensors))  # type: ignore[no-untyped-call]
    return shape


def _is_plain(value: Tensor) -> bool:
    """True if a result has the layout that memory of the pool has. Other layouts would change the last bits of sums."""
    import torch

    return value.dtype == torch.float32 and value.device.type == "cpu" and value.is_contiguous()


def release() -> None:
    """Give freed memory back to the system. The C library keeps it in pieces that later modules do not fit into."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


class Spilled:
    """Tensors in a file without a name, whose pages are in memory only while they are used."""

    def __init__(self, folder: Path, tensors: Iterable[Tensor]) -> None:
        """Move the values of tensors into a file in a folder. Raises `OSError` if it cannot be written."""
        import torch

        kept = [tensor for tensor in tensors if tensor.numel() >= _SPILLED]
        places, end = [], 0
        for tensor in kept:
            places.append(end)
            end += -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._pages: mmap.mmap | None = None
        if not end:
            return
        with TemporaryFile(dir=folder) as file:
            for tensor, place in zip(kept, places, strict=True):
                file.seek(place)
                file.write(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
            file.truncate(end)
            file.flush()
            self._pages = mmap.mmap(file.fileno(), end)
        for tensor, place in zip(kept, places, strict=True):
            found = torch.frombuffer(self._pages, dtype=tensor.dtype, count=tensor.numel(), offset=place)
            tensor.data = found.reshape(tensor.shape)

    def release(self) -> None:
        """Let the pages leave memory. They are read again when they are needed."""
        if self._pages is not None:
            with contextlib.suppress(OSError, AttributeError):
                self._pages.madvise(mmap.MADV_DONTNEED)
