"""Numbers that come from the device while it goes on computing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Later(Generic[T]):
    """Tensors on their way to the host, each with what belongs to it.

    `.item()` would wait until a GPU has computed everything that it was given, and the GPU would then wait for the next
    kernel. A copy into pinned memory waits for nothing. On any other device, each tensor arrives at once.
    """

    def __init__(self) -> None:
        self._sent: deque[tuple[T, Tensor, Any]] = deque()

    def send(self, what: T, value: Tensor) -> None:
        """Send a tensor to the host, which must not be changed afterwards."""
        self._sent.append((what, *self._copied(value.detach())))

    @staticmethod
    def is_late(value: Tensor) -> bool:
        """True if the host would have to wait for this tensor."""
        return value.is_cuda

    def _copied(self, value: Tensor) -> tuple[Tensor, Any]:
        """The tensor on the host, and the event after which it is complete; None if it is."""
        import torch

        if not self.is_late(value):
            return value.to("cpu"), None
        copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        copy.copy_(value, non_blocking=True)
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
        event.record()
        return copy, event

    def arrived(self, wait: bool = False) -> Iterator[tuple[T, Tensor]]:
        """Yield what has arrived, in the order of sending; everything if it is to `wait`."""
        while self._sent:
            what, value, event = self._sent[0]
            if event is not None and not event.query():
                if not wait:
                    return
                event.synchronize()
            self._sent.popleft()
            yield what, value
