"""Collation and evaluation of labelled completions, for TRL's `KTOTrainer`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.objectives.base import Counted
from lora_ns.objectives.pair_trainer import computed_before, padded, reference_trainer_class
from lora_ns.table import IGNORED

_WEIGHED_BY = {
    "rewards/chosen": "desirable rows",
    "logps/chosen": "desirable rows",
    "logits/chosen": "desirable tokens",
    "rewards/rejected": "undesirable rows",
    "logps/rejected": "undesirable rows",
    "logits/rejected": "undesirable tokens",
}
"""What the metrics of a batch are means over, apart from those over all of its rows."""

_WEIGHT = "weight of "


@dataclass(frozen=True)
class CompletionCollator:
    """Collator of labelled answers, as of TRL's `DataCollatorForUnpairedPreference`.

    For the estimate of the distance from the reference, each prompt also gets the answer of the row before it in the
    batch, the first one that of the last row. TRL pairs rows so when it tokenises them, in the order of the file, and
    therefore trains in that order. Pairing the rows of a batch gives the same in that order, and is right in any other.
    """

    pad_token_id: int
    pairs_rows: bool = True
    """Add the sequences for the estimate."""
    multiple: int = 1
    """The length of a batch is a multiple of this."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return `label` and three tensors of shape (rows, positions), each also with the prefix `KL_`."""
        import torch

        own = [(row["input_ids"], row["labels"]) for row in rows]
        batch = padded(own, self.pad_token_id, self.multiple)
        if self.pairs_rows:
            mismatched = padded(_mismatched(own), self.pad_token_id, self.multiple)
            batch |= {f"KL_{name}": value for name, value in mismatched.items()}
        batch |= computed_before(rows, REFERENCE_COLUMNS)
        return {**batch, "label": torch.tensor([bool(row["label"]) for row in rows])}


REFERENCE_COLUMNS = ("ref_logps",)
"""TRL's name of the reference's log-probabilities of the answers, if they were computed before training."""

Side = tuple[Sequence[int], Sequence[int]]
"""Token ids of a row, and its labels, which mark the answer."""


def _mismatched(own: Sequence[Side], before: Side | None = None) -> list[Side]:
    """Each prompt with the answer of the row before it; rows without an answer only fill up a batch, and stay.

    Args:
        own: the rows.
        before: the row before the first one; by default the last one.
    """
    starts = [next((place for place, label in enumerate(labels) if label != IGNORED), None) for _, labels in own]
    answered = [(number, start) for number, start in enumerate(starts) if start is not None]
    answers = [_answer(own[number]) for number, _ in answered]
    first = [_answer(before)] if before else answers[-1:]
    found = list(own)
    for (number, start), (other_ids, other_labels) in zip(answered, [*first, *answers[:-1]], strict=True):
        ids, labels = own[number]
        found[number] = ([*ids[:start], *other_ids], [*labels[:start], *other_labels])
    return found


def _answer(side: Side) -> Side:
    """The answer of a row; empty if it has none."""
    ids, labels = side
    start = next((place for place, label in enumerate(labels) if label != IGNORED), len(ids))
    return ids[start:], labels[start:]


def _sides(inputs: Mapping[str, Any]) -> list[Side]:
    """The rows of a batch, as they were before the padding."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
    rows = zip(inputs["input_ids"], labels, inputs["attention_mask"].bool(), strict=True)
    return [(ids[seen].tolist(), learned[seen].tolist()) for ids, learned, seen in rows]


def _for_estimate(trainer: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What the estimate of the distance needs beyond the batch of a process."""
    found: dict[str, Any] = {}
    if trainer.accelerator.num_processes > 1:
        process, pad = trainer.accelerator.process_index, trainer.processing_class.pad_token_id
        found = _paired_with_others(inputs, process, pad)
    if trainer.precompute_ref_logps:
        with trainer.referring() as reference:
            found["ref_KL_logps"] = trainer._compute_kl_logps(reference, {**inputs, **found})
    return found


def _paired_with_others(inputs: Mapping[str, Any], process: int, pad_token_id: int) -> dict[str, Any]:
    """The sequences for the estimate, whose first answer is that of the row before in another process."""
    from accelerate.utils import gather_object

    own = _sides(inputs)
    answered = [side for side in own if any(label != IGNORED for label in side[1])]
    others = gather_object([answered[-1:]])
    before = next((others[process - step][0] for step in range(1, len(others) + 1) if others[process - step]), None)
    paired = padded(_mismatched(own, before), pad_token_id, 1)
    return {f"KL_{name}": value.to(inputs["input_ids"].device) for name, value in paired.items()}


@functools.cache
def completion_trainer_class(trainer_class: Any, counted: Counted) -> Any:
    """TRL's KTO trainer with rows in random order, whose evaluation reports means over all rows of a label."""

    class CompletionTrainer(reference_trainer_class(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `completion_trainer_class`."""

        reference_columns = REFERENCE_COLUMNS

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.calculate_KL:  # TRL has checked for "sequential", which only its own pairs of rows need
                self.args.train_sampling_strategy = "random"

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            """TRL's loss; among several processes, the rows of all of them estimate the distance together.

            The reference's estimate depends on the batch, so it is never cached.
            """
            estimated = {**inputs, **_for_estimate(self, inputs)} if self.calculate_KL else inputs
            return super()._compute_loss(model, estimated, return_outputs)

        def count_of(self, inputs: Any) -> Any:
            """The number of rows."""
            return inputs["completion_mask"].any(1).sum()

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Evaluate a batch without the rows that only fill it up."""
            real = inputs["completion_mask"].any(1)
            if real.any() and not real.all():
                inputs = {name: value[real] for name, value in inputs.items()}
            self._sizes = _sizes(inputs, self.accelerator)
            return super().prediction_step(model, inputs, *args, **kwargs)

        def batch_means(self) -> dict[str, float]:
            """TRL's metrics of the batch as shares of those of all rows, and the shares themselves."""
            return _shares(super().batch_means(), self._sizes)

        def log_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Log the means, and the margin between those of the two labels."""
            super().log_means({**_means(means), "loss": means["loss"]}, logs)

    return CompletionTrainer


def _shares(means: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    """Weigh the means of a batch by what they are means over, per row of the batch, and add the weights."""
    rows = sizes["desirable rows"] + sizes["undesirable rows"]
    found: dict[str, float] = {}
    for name, mean in means.items():
        weight = sizes[_WEIGHED_BY[name]] if name in _WEIGHED_BY else rows
        if rows and weight:
            found |= {name: mean * weight / rows, f"{_WEIGHT}{name}": weight / rows}
    return found


def _means(shares: Mapping[str, float]) -> dict[str, float]:
    """The means over all batches, from the means of `_shares`; the margin is that between the two labels."""
    means = {name: mean / shares[_WEIGHT + name] for name, mean in shares.items() if _WEIGHT + name in shares}
    if {"rewards/chosen", "rewards/rejected"} <= means.keys():
        means["rewards/margins"] = means["rewards/chosen"] - means["rewards/rejected"]
    return means


def _sizes(inputs: Any, accelerator: Any) -> dict[str, int]:
    """The number of rows and of answer tokens of each label in a batch of all processes."""
    import torch

    tokens = inputs["completion_mask"][:, 1:].sum(1)
    counts = []
    for chosen in (inputs["label"].bool(), ~inputs["label"].bool()):
        counts += [(chosen & tokens.bool()).sum(), tokens[chosen].sum()]
    gathered = accelerator.gather_for_metrics(torch.stack(counts)[None]).sum(0).tolist()
    names = ("desirable rows", "desirable tokens", "undesirable rows", "undesirable tokens")
    return dict(zip(names, gathered, strict=True))
