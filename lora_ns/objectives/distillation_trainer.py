"""Distillation of tokenised prompts, with an evaluation loss that is the divergence per token."""

from __future__ import annotations

import functools
from typing import Any

from lora_ns.objectives.base import Counted
from lora_ns.objectives.prompt_trainer import prompt_trainer_class

_OF_COMPLETIONS = "completions/"
"""Start of the names of metrics that are means over completions; the others are means over tokens."""


@functools.cache
def distillation_trainer_class(trainer_class: Any, counted: Counted) -> Any:
    """TRL's `DistillationTrainer` for tokenised prompts. See `prompt_trainer_class`."""

    class PromptDistillationTrainer(prompt_trainer_class(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `distillation_trainer_class`."""

        _per_token = 1.0
        """Completions per token of the evaluated batch, in all processes."""

        def count_of(self, inputs: Any) -> Any:
            """The number of tokens of the completions."""
            return inputs["completion_mask"].sum()

        def batch_means(self) -> dict[str, float]:
            """TRL's metrics of the batch; those of completions weigh as many completions instead of tokens."""
            return {
                name: mean * (self._per_token if _OF_COMPLETIONS in name else 1.0)
                for name, mean in super().batch_means().items()
            }

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Complete the prompts of a batch first, so that its tokens can be counted."""
            import torch

            batch = self._prepare_inputs(inputs)
            sizes = torch.stack([torch.tensor(len(inputs), device=self.args.device), self.count_of(batch)])
            rows, tokens = self.accelerator.gather(sizes[None]).sum(0).tolist()
            self._per_token = rows / max(tokens, 1)
            return super().prediction_step(model, batch, *args, **kwargs)

        def _prepare_inputs(self, inputs: Any) -> Any:
            """Complete the prompts of a batch, unless this was done."""
            return inputs if "completion_mask" in inputs else super()._prepare_inputs(inputs)

    return PromptDistillationTrainer
