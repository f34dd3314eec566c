"""`[kto]`: Kahneman-Tversky optimisation of a causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.formats import LabelledCompletion, Preference, RowFaultError
from lora_ns.objectives.base import Counted
from lora_ns.objectives.completion_trainer import CompletionCollator, completion_trainer_class
from lora_ns.objectives.pairs import PairObjective
from lora_ns.objectives.text import Renders, TextObjective
from lora_ns.objectives.watches import LikelihoodDisplacement, Watch
from lora_ns.table import PositiveFloat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BALANCED = (0.95, 1.4)
"""Ratios of the total weights of the two labels without a note: the KTO paper advises 1 to 4/3 (equation 8)."""


class Kto(TextObjective):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306), with TRL's `KTOTrainer`.

    The loss of a row depends on the others of its batch: the answers of a batch, each after the prompt of the next
    row, estimate the distance from the reference. The rows of a batch are drawn anew in each epoch.
    """

    toml: ClassVar[str] = "kto"
    library: ClassVar[str] = "TRL"
    upstream: ClassVar[str] = "trl.KTOTrainer"
    examples: ClassVar[tuple[type, ...]] = (LabelledCompletion, Preference)
    inert: ClassVar[tuple[str, ...]] = PairObjective.inert
    has_reference: ClassVar[bool] = True
    divides_weights: ClassVar[bool | str] = PairObjective.divides_weights
    scores_every_token: ClassVar[bool] = False
    shows: ClassVar[Mapping[str, str]] = {"rewards/margins": "margin"}

    table: Literal["kto"] = "kto"
    on_overflow: Literal["error", "drop", "truncate-prompt", "truncate"] = "error"
    """Longer rows: refuse, drop, truncate at the start of the prompt or at the end."""
    beta: PositiveFloat = 0.1
    """Weight of the distance from the reference: a larger one keeps the model closer to it."""
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """Loss: KTO's, or APO-zero of unpaired rows (arXiv 2408.06266), which uses no estimate of the distance."""
    desirable_weight: PositiveFloat = 1.0
    """Weight of desirable answers, to balance unequal numbers of labels."""
    undesirable_weight: PositiveFloat = 1.0
    """Weight of undesirable answers."""
    precompute_ref_log_probs: bool = False
    """Compute the log-probabilities of the reference once, before training, and keep them in the run directory. Each
    step then has one forward pass of four less."""

    def watches(self) -> Sequence[Watch]:
        """The watch for desirable answers that become less likely."""
        remedy = f"raise `{self.key('beta')}` or `{self.key('desirable_weight')}`, or lower `training.learning_rate`"
        return (LikelihoodDisplacement(remedy),)

    @property
    def compares_rows(self) -> bool:
        """True unless the loss uses no estimate of the distance from the reference."""
        return self.loss_type == "kto"

    @classmethod
    def usual_rate(cls, typical: float, width: int | None) -> float:
        """The rate of objectives for pairs: 1e-5 for LoRA on a 7B base."""
        return PairObjective.usual_rate(typical, width)

    @classmethod
    def starter_rows(cls, _asked: str, _answered: str) -> Sequence[Mapping[str, Any]]:
        """Short answers that are desirable, and long ones that are not."""
        pairs = PairObjective.starter_rows(_asked, _answered)
        return [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair in pairs
            for side in ("chosen", "rejected")
        ]

    def sequences(self, example: Any, renderer: Renders) -> Sequence[Any]:
        """The sequence of a conversation with its last answer. Raises `RowFaultError`."""
        found = renderer.examples(example)
        if len(found) > 1:
            what = "the chat template shows earlier answers differently, and this row has several answers to learn"
            raise RowFaultError(what, "keep one answer after the prompt", "PAIR002")
        return found

    def label_notes(self, desirable: int, undesirable: int) -> Iterator[str]:
        """A note if the weights do not balance the labels."""
        if not desirable or not undesirable:
            return
        ratio = self.desirable_weight * desirable / (self.undesirable_weight * undesirable)
        if not _BALANCED[0] <= ratio <= _BALANCED[1]:
            even = self.undesirable_weight * undesirable / desirable
            other = self.desirable_weight * desirable / undesirable
            yield (
                f"{desirable:,} desirable and {undesirable:,} undesirable answers, so desirable ones "
                f"weigh {ratio:.2g} times as much in all: `{self.key('desirable_weight')} = {even:.2g}` or "
                f"`{self.key('undesirable_weight')} = {other:.2g}` would balance them"
            )

    @property
    def refers_once(self) -> bool:
        """True if the log-probabilities of the reference are computed before training."""
        return self.precompute_ref_log_probs

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """Log-probabilities are computed before training for all rows at once."""
        yield from super().lost_in_a_stream()
        if self.precompute_ref_log_probs:
            yield self.key("precompute_ref_log_probs"), "reads all rows before training", "write false"

    def config_class(self) -> Any:
        """`trl.KTOConfig`."""
        import trl

        return trl.KTOConfig

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """The keys of this table, and arguments that make TRL use the rows unchanged."""
        return {
            "beta": self.beta,
            "loss_type": self.loss_type,
            "desirable_weight": self.desirable_weight,
            "undesirable_weight": self.undesirable_weight,
            "max_length": None,
            "remove_unused_columns": False,
            # TRL requires it, because it pairs neighbouring rows of the file. Here, the collator pairs rows of a batch.
            **({"train_sampling_strategy": "sequential"} if self.compares_rows else {}),
        }

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's `KTOTrainer` with rows in random order, and an evaluation that averages over all rows."""
        import trl

        return completion_trainer_class(trl.KTOTrainer, counted)

    def trainer_kwargs(self, _model: Any, tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]) -> dict[str, Any]:
        """The collator of labelled answers."""
        assert tokenizer.pad_token_id is not None, "the tokenizer of a run has a padding token"
        return {"data_collator": CompletionCollator(tokenizer.pad_token_id, self.compares_rows)}
