"""An evaluation loss that is the mean over all tokens or rows, independent of the batch size."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lora_ns.statistics import estimate, mean

LEAST_BATCHES = 5
"""Batches of an evaluation from which the noise of its loss is estimated: of fewer, an interval says nothing."""


@functools.cache
def counted(trainer_class: Any) -> Any:
    """A trainer class that weights each evaluation batch by the number of its items in the loss.

    transformers and TRL average the means of the batches, which makes their `eval_loss` depend on the batch size.
    """

    class CountedTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """A trainer whose subclass for a task defines the items to count, and further means beside the loss."""

        eval_units: Sequence[tuple[float, int]] = ()
        """Loss and number of items of each batch of each process in the last evaluation, in the order of the rows."""

        def count_of(self, inputs: Any) -> Any:
            """Number of items of a batch that are in the loss, as a scalar tensor."""
            raise NotImplementedError

        def part_of(self, inputs: Any, _share: float) -> Any:
            """The inputs of a part of a training batch that is a share of it, see `surviving`."""
            return inputs

        def batch_means(self) -> dict[str, float]:
            """Further means of the last batch, beside its loss."""
            return {}

        def log_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Replace the logged averages over batches by the means over all items."""
            logs["eval_loss"] = means["loss"]

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Evaluate a batch and add it to the sums."""
            count = self.count_of(inputs)
            loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
            counts = self.accelerator.gather_for_metrics(count.to(loss.device)[None])
            losses = self.accelerator.gather_for_metrics(loss.detach()[None])
            sums = self.__dict__.setdefault("_eval_sums", Counter())
            sums["count"] += int(counts.sum())
            sums["loss"] += float((losses * counts)[counts > 0].sum())  # a batch may be nothing but padding of its rank
            units = self.__dict__.setdefault("_units", [])
            units += [pair for pair in zip(losses.tolist(), counts.tolist(), strict=True) if pair[1]]
            for name, value in self.batch_means().items():
                sums[name] += value * int(counts.sum())
            return loss, logits, labels

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """Log, with the means of the sums at the end of an evaluation."""
            sums = self.__dict__.pop("_eval_sums", None) if "eval_loss" in logs else None
            if sums:
                self.eval_units = self.__dict__.pop("_units")
                logs |= interval_of(self.eval_units)
            if sums and (count := sums.pop("count")):
                self.log_means({name: value / count for name, value in sums.items()}, logs)
            super().log(logs, start_time)

    return CountedTrainer


def interval_of(units: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Return the ends of the 95 % interval of an evaluation loss, as they are logged; none if its noise is unknown.

    Args:
        units: loss and number of items of each batch; batches are the smallest parts whose losses are kept.
    """
    if len(units) < LEAST_BATCHES or not all(math.isfinite(loss) for loss, _ in units):
        return {}
    found = estimate(mean([loss for loss, _ in units], [count for _, count in units])).interval
    floor = 0.0 if min(loss for loss, _ in units) >= 0 else -math.inf  # a loss that was never negative
    ends = {"eval_loss_low": max(floor, found.low), "eval_loss_high": found.high}
    return ends if all(map(math.isfinite, ends.values())) else {}
