"""A next-token loss that computes logits only for the positions that have a label."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.training.padding_free import PaddingFree
from lora_ns.training.scoring import (
    POSITIONS,
    AnswerScorer,
    HeadScorer,
    ScoredCollator,
    Scores,
    labelled_positions,
    with_positions,
)

if TYPE_CHECKING:
    import torch


class LeavingOutPadding:
    """A part of the trainers that may compute rows one after another; see `padding_free`."""

    leaves_out_padding = False
    accelerator: Any
    model: Any

    @functools.cached_property
    def without_padding(self) -> PaddingFree | None:
        """What leaves the padding out of batches; None if a run must not."""
        if not self.leaves_out_padding:
            return None
        return PaddingFree(self.accelerator.unwrap_model(self.model).get_base_model(), self.accelerator)

    def positions_of(self, inputs: Any) -> Any:
        """The number of positions that are computed for a training batch."""
        mask = inputs.get("attention_mask")
        if mask is not None and POSITIONS in inputs and self.without_padding and self.without_padding.pays(mask):
            return mask.sum()
        return inputs["input_ids"].numel()


@functools.cache
def scoring_positions_in_the_loss(trainer_class: Any) -> Any:
    """A trainer class like `SFTTrainer` that computes logits only for labelled positions; see `scoring`.

    Its loss and its metrics are TRL's, but nothing waits for the device before the metrics are logged.
    """

    class ScoringTrainer(LeavingOutPadding, trainer_class):  # type: ignore[misc, unused-ignore]
        """See `scoring_positions_in_the_loss`."""

        row_parts = 1
        data_collator: Any

        def get_train_dataloader(self) -> Any:
            """The loader, which finds the labelled positions of each batch before it is moved to the device."""
            with _finding_positions(self):
                return super().get_train_dataloader()

        def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
            """The same of evaluation rows."""
            with _finding_positions(self):
                return super().get_eval_dataloader(eval_dataset)

        def part_of(self, inputs: Any, share: float) -> Any:
            """The inputs of a part of a training batch, with their labelled positions."""
            return with_positions(dict(super().part_of(inputs, share)))

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """The trainer's loss, from the labelled positions if a scorer fits the model."""
            positions = inputs.pop(POSITIONS, None)
            scorer = None if return_outputs else _scorer_of(self, model)
            if scorer is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if positions is None:
                scores = scorer(positions=labelled_positions(inputs["labels"]), **{**inputs, "use_cache": False})
            else:
                free = self.without_padding
                scores = scorer.without_mask(free, positions=positions, **{**inputs, "use_cache": False})
            self._keep_means(scores)
            return _loss_of(self, scores.log_probs, num_items_in_batch)

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
            kept = self._metrics["train" if self.model.training else "eval"]
            kept.update({name: _numbers(values) for name, values in kept.items()})
            kept["num_tokens"] = [self.state.num_input_tokens_seen]
            super().log(logs, start_time)

    return ScoringTrainer


@contextlib.contextmanager
def _finding_positions(trainer: Any) -> Iterator[None]:
    """Let the loaders of a trainer that are made in this context find labelled positions, unless rows are divided."""
    collator = trainer.data_collator
    if trainer.row_parts == 1:
        trainer.data_collator = ScoredCollator(collator)
    try:
        yield
    finally:
        trainer.data_collator = collator


def _scorer_of(trainer: Any, model: Any) -> AnswerScorer | None:
    """The scorer for a model; None if TRL's own loss is to be used."""
    if trainer.compute_loss_func or trainer.label_smoother or trainer.aux_loss_enabled:
        return None
    in_parts = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    kinds = (HeadScorer,) if in_parts else (HeadScorer, AnswerScorer)
    found = next((kind for kind in kinds if kind.fits(model)), None)
    return found(model, trainer.accelerator) if found else None


def _loss_of(trainer: Any, log_probs: torch.Tensor, items: Any) -> torch.Tensor:
    """TRL's loss of the labelled positions of a micro-batch."""
    import torch

    losses = -log_probs
    if trainer.args.loss_type == "dft":
        losses = losses * log_probs.exp().detach()
    loss = losses.sum() / torch.as_tensor(len(log_probs) if items is None else items).clamp(min=1)
    if trainer.args.average_tokens_across_devices and items is not None:
        loss = loss * trainer.accelerator.num_processes
    return loss


def _numbers(values: Sequence[float | torch.Tensor]) -> list[float]:
    """The values as numbers of the host, fetched at once."""
    import torch

    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return torch.stack(tensors).tolist() if tensors else list(values)  # type: ignore[arg-type, unused-ignore]
