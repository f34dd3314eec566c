"""`[reward]`: a reward model, which scores the answer of a conversation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lora_ns.objectives.base import TEXT_AND_LABEL, Answers, Counted, TaskType
from lora_ns.objectives.labels import WRITING_TEXT, LabelObjective
from lora_ns.objectives.pair_trainer import PairCollator, pairs_that_count
from lora_ns.objectives.pairs import PairObjective
from lora_ns.objectives.watches import Watch
from lora_ns.table import PositiveFloat

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class Reward(PairObjective):
    """A reward model of preference pairs (Bradley-Terry), with TRL's `RewardTrainer`."""

    toml: ClassVar[str] = "reward"
    library: ClassVar[str] = "TRL"
    upstream: ClassVar[str] = "trl.RewardTrainer"
    task_type: ClassVar[TaskType] = "SEQ_CLS"
    answers: ClassVar[Answers] = "score"
    writes: ClassVar[tuple[str, ...]] = ("score", "rejected_score")
    inert: ClassVar[tuple[str, ...]] = (*TEXT_AND_LABEL, *WRITING_TEXT)
    scores_whole: ClassVar[bool] = True
    has_reference: ClassVar[bool] = False
    disables_dropout: ClassVar[bool] = True
    divides_weights: ClassVar[bool | str] = "its scores have been compared with TRL's on whole weights only"
    shows: ClassVar[Mapping[str, str]] = {"accuracy": "pairs right", "margin": "margin"}
    rate_share: ClassVar[float] = 1.0

    table: Literal["reward"] = "reward"
    center_rewards_coefficient: PositiveFloat | None = None
    """Weight of a term that keeps the mean score of a pair near 0 (arXiv 2312.09244), such as 0.01; default: none."""
    on_stop_token: Literal["error", "drop", "keep"] = "error"
    """Pairs with a stop token inside an answer: refuse, drop, or keep them and score the text behind it too."""

    @classmethod
    def rate(cls, width: int) -> float:
        """The rate for classification, which trains a new head as well: about 1e-4 for a 7B base, as TRL's default."""
        return LabelObjective.rate(width)

    def watches(self) -> Sequence[Watch]:
        """None: no answer has a log-probability."""
        return ()

    def config_class(self) -> Any:
        """`trl.RewardConfig`."""
        import trl

        return trl.RewardConfig

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """The keys of this table, and arguments that make TRL use the rows unchanged."""
        return {
            "center_rewards_coefficient": self.center_rewards_coefficient,
            "max_length": None,
            "remove_unused_columns": False,
        }

    def trainer_class(self, counted: Counted) -> Any:
        """TRL's `RewardTrainer`, with an evaluation that averages over all pairs."""
        return _trainer_class(counted)

    def trainer_kwargs(self, _model: Any, tokenizer: PreTrainedTokenizerBase, _labels: Sequence[str]) -> dict[str, Any]:
        """The collator of pairs."""
        assert tokenizer.pad_token_id is not None, "the tokenizer of a run has a padding token"
        return {"data_collator": PairCollator(tokenizer.pad_token_id)}


@functools.cache
def _trainer_class(counted: Counted) -> Any:
    import torch
    import trl

    class PairRewardTrainer(counted(trl.RewardTrainer)):  # type: ignore[misc, unused-ignore]
        """TRL's trainer for rows from `PairCollator`, which evaluates the mean over all pairs.

        In an evaluation by several processes, the last batches are filled up with pairs that do not count. TRL would
        average over them, so loss and metrics of an evaluation are computed here.
        """

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """The rows as they are: they are already tokenised."""
            return dataset

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            """Evaluate, and keep the margin of each pair in `eval_margins`."""
            self.eval_margins: list[float] = []
            return super().evaluate(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """TRL's loss in training; in an evaluation, the same over the pairs that count."""
            given = {name: value for name, value in inputs.items() if name != "completion_mask"}
            if self.model.training:
                return super().compute_loss(model, given, return_outputs, **kwargs)
            outputs = model(**given, use_cache=False)
            chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
            self._measure(chosen, rejected, real := pairs_that_count(inputs))
            loss = _loss(chosen[real], rejected[real], self.args.center_rewards_coefficient)
            return (loss, outputs) if return_outputs else loss

        def _measure(self, chosen: Any, rejected: Any, real: Any) -> None:
            """Add the metrics of a batch, under TRL's names, over the pairs of all processes that count."""
            found = self.accelerator.gather(torch.stack([chosen.float(), rejected.float(), real.float()], dim=1))
            scores = found[found[:, 2] > 0, :2]
            self.eval_margins += (scores[:, 0] - scores[:, 1]).tolist()
            for name, value in _metrics(scores).items():
                self._metrics["eval"][name].append(value)

        def count_of(self, inputs: Any) -> Any:
            """The number of pairs."""
            return pairs_that_count(inputs).sum()

        def batch_means(self) -> dict[str, float]:
            """Means of the batch over its pairs."""
            return {name: self._metrics["eval"][name][-1] for name in _MEANS}

        def log_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Also replace the metrics of the batches by those of all pairs."""
            super().log_means(means, logs)
            kept = self._metrics["eval"]
            kept |= {name: [means[name]] for name in _MEANS}
            kept |= {"min_reward": [min(kept["min_reward"])], "max_reward": [max(kept["max_reward"])]}

    return PairRewardTrainer


_MEANS = ("mean_reward", "accuracy", "margin")
"""Metrics that are means over pairs."""


def _loss(chosen: Tensor, rejected: Tensor, coefficient: float | None) -> Tensor:
    """TRL's loss of pairs, from scores of shape (pairs,); 0 for no pair."""
    import torch

    losses = -torch.nn.functional.logsigmoid(chosen - rejected)
    if coefficient is not None:
        losses = losses + coefficient * (chosen + rejected) ** 2
    return losses.mean() if len(losses) else losses.sum()


def _metrics(scores: Tensor) -> dict[str, float]:
    """TRL's metrics of pairs, from scores of shape (pairs, 2), those of the preferred answers first."""
    margins = scores[:, 0] - scores[:, 1]
    return {
        "min_reward": float(scores.min()),
        "mean_reward": float(scores.mean()),
        "max_reward": float(scores.max()),
        "accuracy": float((margins > 0).float().mean()),
        "margin": float(margins.mean()),
    }
