"""TRL's trainer for text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lora_ns.errors import PlanError, Problem
from lora_ns.table import IGNORED
from lora_ns.training.eval_loss import counted
from lora_ns.training.scoring import AnswerScorer, HeadScorer
from lora_ns.training.wrapped import repeatable

if TYPE_CHECKING:
    from transformers import Trainer


def _causal(arguments: dict[str, Any], shared: dict[str, Any]) -> Trainer:
    import trl

    # Over a quantised base, TRL rounds what is trained to bfloat16. Here it stays in float32, as over any other base.
    trained = {name: value.data for name, value in shared["model"].named_parameters() if value.requires_grad}
    try:
        trainer: Trainer = repeatable(causal_trainer_class())(args=trl.SFTConfig(**arguments), **shared)
    except ValueError as error:  # what TRL cannot train, such as the embeddings of a base that ties them to its head
        reason = str(error).strip().splitlines()[0]
        raise PlanError(Problem("", f"peft.method: TRL refuses it: {reason}", "choose another method")) from error
    for name, parameter in shared["model"].named_parameters():
        if name in trained:
            parameter.data = trained[name]
    return trainer


@functools.cache
def causal_trainer_class() -> Any:
    """TRL's `SFTTrainer` with an evaluation loss that is the mean over all tokens, whatever the batches were.

    On a CPU, it scores the positions in the loss alone; see `scoring`.
    """
    import trl

    class CausalTrainer(counted(trl.SFTTrainer)):  # type: ignore[misc, unused-ignore]
        """See `causal_trainer_class`."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """TRL's loss, from scores of the positions in it where that is less work."""
            own_logits = return_outputs or self.compute_loss_func or self.label_smoother or self.aux_loss_enabled
            in_parts = self.is_fsdp_enabled or self.is_deepspeed_enabled
            kinds = (HeadScorer,) if in_parts else (HeadScorer, AnswerScorer)
            scorer = next((kind for kind in kinds if kind.fits(model)), None)
            if not own_logits and scorer:
                model = scorer(model, self.accelerator)
            return super().compute_loss(model, inputs, return_outputs, **kwargs)

        def count_of(self, inputs: Any) -> Any:
            """The tokens whose prediction is in the loss."""
            return (inputs["labels"][:, 1:] != IGNORED).sum()

        def batch_means(self) -> dict[str, float]:
            """TRL's accuracy of the batch."""
            return {"mean_token_accuracy": self._metrics["eval"]["mean_token_accuracy"][-1]}

        def tell_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """TRL logs the mean of what stands among its own metrics."""
            super().tell_means(means, logs)
            self._metrics["eval"]["mean_token_accuracy"] = [means["mean_token_accuracy"]]

    return CausalTrainer
