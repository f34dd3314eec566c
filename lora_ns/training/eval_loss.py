"""An evaluation loss that is the mean over all that is in it, whatever the batches were."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any


@functools.cache
def counted(trainer_class: Any) -> Any:
    """A trainer class that weighs each evaluation batch by what of it is in the loss.

    transformers and TRL average the means of the batches, so that their `eval_loss` depends on the batch size.
    """

    class CountedTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """What is counted, and which means there are beside the loss, says the class of the task."""

        def count_of(self, inputs: Any) -> Any:
            """How much of a batch is in the loss, as a tensor of one number."""
            raise NotImplementedError

        def batch_means(self) -> dict[str, float]:
            """Means of the last batch beside its loss."""
            return {}

        def tell_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Put the means over all into the place of those over batches."""
            logs["eval_loss"] = means["loss"]

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Add the batch to the sums."""
            count = self.count_of(inputs)
            loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
            counts = self.accelerator.gather_for_metrics(count.to(loss.device)[None])
            losses = self.accelerator.gather_for_metrics(loss.detach()[None])
            sums = self.__dict__.setdefault("_eval_sums", Counter())
            sums["count"] += int(counts.sum())
            sums["loss"] += float((losses * counts)[counts > 0].sum())  # a batch may only fill up those of its rank
            for name, mean in self.batch_means().items():
                sums[name] += mean * int(counts.sum())
            return loss, logits, labels

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """Take the sums at the end of an evaluation."""
            sums = self.__dict__.pop("_eval_sums", None) if "eval_loss" in logs else None
            if sums and (count := sums.pop("count")):
                self.tell_means({name: value / count for name, value in sums.items()}, logs)
            super().log(logs, start_time)

    return CountedTrainer
