"""A count of the tokens trained on, and of the padding between them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from lora_ns.training.later import Later


class _Padded:
    """A trainer that computes the padding of its batches too."""

    def positions_of(self, inputs: Any) -> Any:
        """The number of positions that are computed for a training batch."""
        return inputs["input_ids"].numel()


@functools.cache
def counting_tokens(trainer_class: Any) -> Any:
    """A trainer class that counts tokens as transformers does, without waiting for the device in each step."""

    class CountingTrainer(trainer_class, _Padded):  # type: ignore[misc, unused-ignore]
        """See `counting_tokens`."""

        tokens_trained, positions_trained = 0, 0

        def _track_num_input_tokens(self, inputs: Any) -> None:
            """Count the tokens and positions of a micro-batch of all processes, without padding and with it."""
            import torch

            if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
                return
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            tokens = ids.new_tensor(ids.numel()) if mask is None else mask.sum()
            counts = torch.stack([tokens, ids.new_tensor(self.positions_of(inputs))])
            self._counts().send(None, self.accelerator.gather(counts[None]).sum(0))
            self._add_up()

        def _counts(self) -> Later[None]:
            found: Later[None] = self.__dict__.setdefault("_tokens_sent", Later())
            return found

        def _add_up(self, wait: bool = False) -> None:
            for _, counts in self._counts().arrived(wait):
                tokens, positions = counts.tolist()
                self.state.num_input_tokens_seen += tokens
                self.tokens_trained += tokens
                self.positions_trained += positions

        def padding(self) -> dict[str, float]:
            """The fraction of the positions trained on that was padding, as a metric; empty if none was."""
            self._add_up(wait=True)
            share = 1 - self.tokens_trained / max(1, self.positions_trained)
            return {"padding": round(share, 4)} if self.positions_trained > self.tokens_trained else {}

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """Log, with all tokens counted, and the padding in the summary of the training."""
            self._add_up(wait=True)
            if "train_loss" in logs:
                logs |= self.padding()
            super().log(logs, start_time)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """Save a checkpoint, with all tokens counted."""
            self._add_up(wait=True)
            super()._save_checkpoint(model, trial)

    return CountingTrainer
