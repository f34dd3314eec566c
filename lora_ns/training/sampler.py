"""Batches of like length in a random order."""

from __future__ import annotations

import functools
import itertools
from typing import Any


@functools.cache
def sampler_class() -> Any:
    """transformers' `LengthGroupedSampler` with its batches in a random order that follows from seed and epoch alone.

    The original goes from the longest rows to the shortest, fifty batches at a time: where length tells kinds of rows
    apart, a model sees them one kind after the other. It also draws from the global generator, which an evaluation
    moves on: a resumed run, which does not evaluate before its first step, would see the rows in another order.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class EpochSampler(LengthGroupedSampler):  # type: ignore[misc, unused-ignore]
        """Batches of like length, shuffled anew in each epoch."""

        seed = 0
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            """Called at the beginning of each epoch, also of the one that a run is resumed in."""
            self.epoch = epoch

        def __iter__(self) -> Any:
            self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
            rows = list(super().__iter__())
            batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
            # The longest rows stay first, where they show at once that memory is short; a short batch stays last.
            whole = max(1, len(rows) // self.batch_size)
            order = torch.randperm(whole - 1, generator=self.generator).tolist()
            moved = [batches[0], *(batches[1 + number] for number in order), *batches[whole:]]
            return itertools.chain.from_iterable(moved)

    return EpochSampler
