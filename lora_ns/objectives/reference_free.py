"""The base class of preference objectives without a reference model, with TRL's experimental trainers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lora_ns.objectives.base import Counted
from lora_ns.objectives.experimental import open_experimental
from lora_ns.objectives.pair_trainer import PairCollator, counting_pairs
from lora_ns.objectives.pairs import PairObjective
from lora_ns.table import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ReferenceFree(PairObjective):
    """An objective for preference pairs that compares the answers under the trained model alone."""

    library: ClassVar[str] = "TRL"
    has_reference: ClassVar[bool] = False
    divides_weights: ClassVar[bool | str] = "TRL's experimental trainers have been tested on whole weights only"
    scores_every_token: ClassVar[bool] = True
    upstream_config: ClassVar[str]
    """Dotted name of the class of TRL's training arguments."""
    likelihood_of_prompt: ClassVar[bool]
    """True if the likelihood that is added to the loss includes the tokens of the prompt."""

    def config_class(self) -> Any:
        """TRL's configuration class."""
        return open_experimental(self.upstream_config, self.toml)

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """Arguments that make TRL use the rows and the model unchanged; dropout is on, as in fine-tuning."""
        return {"max_length": self.max_seq_length, "remove_unused_columns": False, "disable_dropout": False}

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's trainer, with lorans's tokens, and an evaluation that averages over all pairs."""
        return _trainer_class(open_experimental(self.upstream, self.toml), counted, self.likelihood_of_prompt)

    def trainer_kwargs(self, _model: Any, tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]) -> dict[str, Any]:
        """The collator of pairs."""
        assert tokenizer.pad_token_id is not None, "the tokenizer of a run has a padding token"
        return {"data_collator": PairCollator(tokenizer.pad_token_id)}


class _Tokenised:
    """Rows that a trainer cannot map, because they are already tokenised."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def map(self, *_: Any, **__: Any) -> _Tokenised:
        """These rows, unchanged."""
        return self

    def __len__(self) -> int:
        return len(self.rows)


@functools.cache
def _trainer_class(trainer_class: Any, counted: Counted, likelihood_of_prompt: bool) -> Any:
    """A trainer of pairs from TRL that does not tokenise. It takes the batches of `PairCollator`."""

    class ReferenceFreeTrainer(counting_pairs(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `_trainer_class`."""

        of_pairs = ("eval_rewards/", "eval_logps/", "eval_nll_loss", "eval_log_odds")

        def __init__(self, *args: Any, train_dataset: Any, eval_dataset: Any = None, **kwargs: Any) -> None:
            rows = [None if data is None else _Tokenised(data) for data in (train_dataset, eval_dataset)]
            super().__init__(*args, train_dataset=rows[0], eval_dataset=rows[1], **kwargs)
            self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
            self.use_dpo_data_collator = True  # its evaluation warns of any other collator than TRL's

        def eval_metrics(self) -> dict[str, list[float]]:
            """TRL's metrics of the evaluated batches."""
            return self._stored_metrics["eval"]  # type: ignore[no-any-return]

        @staticmethod
        def concatenated_inputs(batch: Any, *_: Any, **__: Any) -> dict[str, Any]:
            """The batch under TRL's names: `PairCollator` has put the preferred before the rejected sequences.

            The attention ends with the answer, since a template may add tokens, which TRL would count as likelihood.
            """
            until_end = batch["completion_mask"].flip(1).cummax(1).values.flip(1)
            until_end = until_end.masked_fill(until_end[:, :1] == 0, 1)
            return {
                "concatenated_input_ids": batch["input_ids"],
                "concatenated_attention_mask": batch["attention_mask"] * until_end,
                "concatenated_labels": batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED),
            }

        @staticmethod
        def get_batch_logps(logits: Any, labels: Any, *args: Any, **kwargs: Any) -> Any:
            """TRL's log-probabilities, and 0 in place of 0 / 0 for a pair that only fills up a batch."""
            found = trainer_class.get_batch_logps(logits, labels, *args, **kwargs)
            return found.masked_fill((labels[:, 1:] == IGNORED).all(1), 0.0)

        def odds_ratio_loss(self, *logps: Any) -> Any:
            """ORPO's loss and metrics; in an evaluation, those of a pair that only fills up a batch are 0."""
            found = super().odds_ratio_loss(*logps)
            return found if self.model.training else tuple(value.nan_to_num(0.0) for value in found)

        def concatenated_forward(self, model: Any, batch: Any) -> Any:
            """TRL's log-probabilities, logits and likelihood.

            TRL takes the likelihood over all tokens of a batch. In an evaluation it is that of each pair, averaged,
            so that it does not depend on the size of the batches.
            """
            ids, seen, labels = (value.chunk(2)[0] for value in self.concatenated_inputs(batch).values())
            found = super().concatenated_forward(_without_virtual_tokens(model), {**batch, "chosen_labels": labels})
            if model.training or not getattr(self, "cpo_alpha", 1):
                return found
            if likelihood_of_prompt:
                fills_up = (labels == IGNORED).all(1, keepdim=True)
                labels = ids.masked_fill((seen == 0) | fills_up, IGNORED)
            return (*found[:4], _mean_likelihood(found[2], labels[:, 1:]), *found[5:])

    return ReferenceFreeTrainer


def _without_virtual_tokens(model: Any) -> Callable[..., Any]:
    """The forward pass of a model, with logits for the tokens of the rows only, as TRL expects them."""

    def forward(input_ids: Any, **kwargs: Any) -> Any:
        outputs = model(input_ids, **kwargs)
        outputs.logits = outputs.logits[:, -input_ids.shape[1] :]
        return outputs

    return forward


def _mean_likelihood(logits: Any, labels: Any) -> Any:
    """The mean over rows of the mean negative log-likelihood of their tokens.

    Args:
        logits: shape (rows, positions, vocabulary); a last position without a label is ignored.
        labels: shape (rows, positions), the next token of each position, or `IGNORED`.
    """
    import torch

    logits = logits[:, : labels.shape[1]].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    return (losses.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)).mean()
