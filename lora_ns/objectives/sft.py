"""`[sft]`: supervised fine-tuning of a causal language model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.objectives.base import Counted
from lora_ns.objectives.rendering import LossOn
from lora_ns.objectives.text import TextObjective
from lora_ns.table import IGNORED, NonNegativeFloat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Sft(TextObjective):
    """Supervised fine-tuning of a causal language model, with TRL's `SFTTrainer`."""

    toml: ClassVar[str] = "sft"
    library: ClassVar[str] = "TRL"
    upstream: ClassVar[str] = "trl.SFTTrainer"
    next_token_loss: ClassVar[bool] = True
    divides_rows: ClassVar[bool] = True

    table: Literal["sft"] = "sft"
    train_on: LossOn = "assistant"
    """Tokens in the loss: every answer with its end token, only the last answer, or all tokens."""
    packing: bool = False
    """Pack short rows into rows of `max_seq_length` (best-fit decreasing). Packed rows do not see one another."""
    loss_type: Literal["nll", "dft"] = "nll"
    """Loss: cross entropy, or dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629)."""
    neftune_noise_alpha: NonNegativeFloat = 0.0
    """NEFTune: scale of the noise on embeddings in training (Jain et al. 2023, arXiv 2310.05914); 0 for none."""

    @property
    def loss_on(self) -> LossOn:
        """Tokens in the loss."""
        return self.train_on

    @property
    def packs(self) -> bool:
        """True if short rows are packed into rows of `max_seq_length`."""
        return self.packing

    @property
    def noise(self) -> float:
        """Scale of the noise on embeddings in training; 0 for none."""
        return self.neftune_noise_alpha

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """Packing, which needs all rows."""
        if self.packing:
            yield self.key("packing"), "rows are packed after all of them are read", "write `packing = false`"

    def config_class(self) -> Any:
        """`trl.SFTConfig`."""
        import trl

        return trl.SFTConfig

    def arguments(self, row_parts: int) -> dict[str, Any]:
        """Arguments that make TRL use the rows unchanged: they are already tokenised, masked, truncated and packed."""
        return {
            **({"pad_to_multiple_of": row_parts} if row_parts > 1 else {}),
            "max_length": None,
            "padding_free": self.packing,
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "loss_type": self.loss_type,
        }

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's `SFTTrainer`, which also reports the accuracy over all tokens."""
        return _trainer_class(counted)

    def trainer_kwargs(
        self, _model: Any, _tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]
    ) -> dict[str, Any]:
        """No further arguments: TRL creates its own data collator."""
        return {}


@functools.cache
def _trainer_class(counted: Counted) -> Any:
    import trl

    class CountedSftTrainer(counted(trl.SFTTrainer)):  # type: ignore[misc, unused-ignore]
        """TRL's trainer with an evaluation that averages over all tokens in the loss, regardless of the batches."""

        def count_of(self, inputs: Any) -> Any:
            """The number of tokens in the loss."""
            return (inputs["labels"][:, 1:] != IGNORED).sum()

        def batch_means(self) -> dict[str, float]:
            """TRL's token accuracy of the batch."""
            return {"mean_token_accuracy": float(self._metrics["eval"]["mean_token_accuracy"][-1])}

        def log_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Also replace TRL's own metric, which it logs as a mean."""
            super().log_means(means, logs)
            self._metrics["eval"]["mean_token_accuracy"] = [means["mean_token_accuracy"]]

    return CountedSftTrainer
