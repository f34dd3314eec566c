"""A next-token loss that computes logits only for the positions that have a label."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lora_ns.training.scoring import POSITIONS, AnswerScorer, HeadScorer, ScoredCollator, Scores, labelled_positions

if TYPE_CHECKING:
    import torch


@functools.cache
def scoring_positions_in_the_loss(trainer_class: Any) -> Any:
    """A trainer class like `SFTTrainer` that computes logits only for labelled positions; see `scoring`.

    Its loss and its metrics are TRL's, but nothing waits for the device before the metrics are logged.
    """

    class ScoringTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """See `scoring_positions_in_the_loss`."""

        def find_positions_on_host(self) -> None:
            """Find the labelled positions of each batch before it is moved to the device."""
            self.data_collator = ScoredCollator(self.data_collator)

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """The trainer's loss, from the labelled positions if a scorer fits the model."""
            positions = inputs.pop(POSITIONS, None)
            own_logits = return_outputs or self.compute_loss_func or self.label_smoother or self.aux_loss_enabled
            in_parts = self.is_fsdp_enabled or self.is_deepspeed_enabled
            kinds = (HeadScorer,) if in_parts else (HeadScorer, AnswerScorer)
            scorer = next((kind for kind in kinds if kind.fits(model)), None)
            if own_logits or scorer is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if positions is None:
                positions = labelled_positions(inputs["labels"])
            scores = scorer(model, self.accelerator)(positions=positions, **{**inputs, "use_cache": False})
            self._keep_means(scores)
            return self._loss_of(scores.log_probs, num_items_in_batch)

        def _loss_of(self, log_probs: torch.Tensor, items: Any) -> torch.Tensor:
            """TRL's loss of the labelled positions of a micro-batch."""
            import torch

            losses = -log_probs
            if self.args.loss_type == "dft":
                losses = losses * log_probs.exp().detach()
            loss = losses.sum() / torch.as_tensor(len(log_probs) if items is None else items).clamp(min=1)
            if self.args.average_tokens_across_devices and items is not None:
                loss = loss * self.accelerator.num_processes
            return loss

        def _keep_means(self, scores: Scores) -> None:
            """Keep TRL's means of a batch, on its device."""
            import torch

            valid = scores.entropy.new_tensor(len(scores.entropy))
            sums = torch.stack([valid, scores.entropy.detach().sum(), scores.is_top1.sum()])
            valid, entropy, correct = self.accelerator.gather_for_metrics(sums[None]).sum(0)
            kept = self._metrics["train" if self.model.training else "eval"]
            kept["entropy"].append(entropy / valid.clamp(min=1))
            kept["mean_token_accuracy"].append(correct / valid.clamp(min=1))

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """Log, with the means that were kept."""
            import torch

            kept = self._metrics["train" if self.model.training else "eval"]
            for name, values in kept.items():
                if any(isinstance(value, torch.Tensor) for value in values):
                    kept[name] = torch.stack(values).tolist()
            kept["num_tokens"] = [self.state.num_input_tokens_seen]
            super().log(logs, start_time)

    return ScoringTrainer
