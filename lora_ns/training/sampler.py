"""A sampler that groups rows by length and shuffles the batches."""

from __future__ import annotations

import functools
import itertools
from typing import Any


@functools.cache
def sampler_class() -> Any:
    """transformers' `LengthGroupedSampler` with shuffled batches, in an order that depends only on seed and epoch.

    The original goes from the longest rows to the shortest, fifty batches at a time. If kinds of rows differ in length,
    the model sees one kind after the other. The original also draws from the global generator, which an evaluation
    advances: a resumed run does not evaluate before its first step, and would see the rows in another order.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class EpochSampler(LengthGroupedSampler):  # type: ignore[misc, unused-ignore]
        """Batches of similar length, reshuffled in each epoch."""

        seed = 0
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            """Set the epoch. Called at the start of each epoch, and when a run is resumed within one."""
            self.epoch = epoch

        def __iter__(self) -> Any:
            self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
            rows = list(super().__iter__())
            batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
            # The longest rows stay first, so that too little memory shows at once; an incomplete batch stays last.
            whole = max(1, len(rows) // self.batch_size)
            order = torch.randperm(whole - 1, generator=self.generator).tolist()
            moved = [batches[0], *(batches[1 + number] for number in order), *batches[whole:]]
            return itertools.chain.from_iterable(moved)

    return EpochSampler
