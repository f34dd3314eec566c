"""A next-token loss that computes logits only for the positions that have a label."""

from __future__ import annotations

import functools
from typing import Any

from lora_ns.training.scoring import AnswerScorer, HeadScorer


@functools.cache
def scoring_positions_in_the_loss(trainer_class: Any) -> Any:
    """A trainer class that computes logits only for labelled positions where that saves work; see `scoring`."""

    class ScoringTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """See `scoring_positions_in_the_loss`."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """The trainer's loss, from the labelled positions if a scorer fits the model."""
            own_logits = return_outputs or self.compute_loss_func or self.label_smoother or self.aux_loss_enabled
            in_parts = self.is_fsdp_enabled or self.is_deepspeed_enabled
            kinds = (HeadScorer,) if in_parts else (HeadScorer, AnswerScorer)
            scorer = next((kind for kind in kinds if kind.fits(model)), None)
            if not own_logits and scorer:
                model = scorer(model, self.accelerator)
            return super().compute_loss(model, inputs, return_outputs, **kwargs)

    return ScoringTrainer
