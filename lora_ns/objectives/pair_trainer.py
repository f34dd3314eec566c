"""Collation and evaluation of preference pairs, and what all trainers with a reference share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lora_ns.objectives.base import Counted
from lora_ns.table import IGNORED


@dataclass(frozen=True)
class PairCollator:
    """Collator of pairs, as of TRL's `DataCollatorForPreference`: first all preferred sides, then all rejected ones.

    Unlike TRL's, which takes everything after the prompt for the answer, it takes the answer from the labels, so that
    a user turn between two answers is not in the loss.
    """

    sides: ClassVar[int] = 2
    """Sequences of each row."""

    pad_token_id: int
    multiple: int = 1
    """The length of a batch is a multiple of this."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return `input_ids`, `attention_mask` and `completion_mask`, of shape (2 * pairs, positions).

        Rows with log-probabilities of the reference also give these, of shape (pairs,).
        """
        sides = [
            *((row["input_ids"], row["labels"]) for row in rows),
            *((row["rejected_input_ids"], row["rejected_labels"]) for row in rows),
        ]
        return padded(sides, self.pad_token_id, self.multiple) | computed_before(rows, PAIR_COLUMNS)


PAIR_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
"""TRL's names of the reference's log-probabilities of both answers, if they were computed before training."""


def computed_before(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Collate log-probabilities of the reference, if the rows have them, each to a tensor of shape (rows,)."""
    import torch

    return {name: torch.tensor([row[name] for row in rows]) for name in names if name in rows[0]}


def padded(sides: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int, multiple: int) -> dict[str, Any]:
    """Pad sequences on the right to the longest; returns `input_ids`, `attention_mask` and `completion_mask`.

    Args:
        sides: token ids of each sequence, and its labels, which mark the answer.
        pad_token_id: token for the positions after a sequence.
        multiple: the length of the batch is a multiple of this.
    """
    import torch

    longest = max(len(ids) for ids, _ in sides)
    shape = (len(sides), -(-longest // multiple) * multiple)
    batch = {
        "input_ids": torch.full(shape, pad_token_id),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "completion_mask": torch.zeros(shape, dtype=torch.long),
    }
    for place, (ids, labels) in enumerate(sides):
        batch["input_ids"][place, : len(ids)] = torch.tensor(ids)
        batch["attention_mask"][place, : len(ids)] = 1
        batch["completion_mask"][place, : len(ids)] = torch.tensor(labels).ne(IGNORED).long()
    return batch


@functools.cache
def counting_rows(trainer_class: Any, counted: Counted) -> Any:
    """A TRL trainer whose evaluation reports means over all rows instead of means over batches."""

    class CountingTrainer(counted(trainer_class)):  # type: ignore[misc, unused-ignore]
        """See `counting_rows`; a subclass defines `count_of`."""

        of_pairs = ("rewards/", "logps/")
        """Starts of the names of metrics that are means over pairs; the others are means over tokens."""
        _share = 1.0
        """Share of the rows of a batch, in all processes, that do not only fill it up."""

        def eval_metrics(self) -> dict[str, list[float]]:
            """TRL's metrics of the evaluated batches, which it logs as means over batches."""
            found: dict[str, list[float]] = self._metrics["eval"]
            return found

        def batch_means(self) -> dict[str, float]:
            """TRL's metrics of the batch; those over pairs are 0 for a pair that only fills it up."""
            found = {name: values[-1] for name, values in self.eval_metrics().items() if name != "num_tokens"}
            of_pairs = self.of_pairs
            return {name: value / self._share if name.startswith(of_pairs) else value for name, value in found.items()}

        def log_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """Also replace TRL's own metrics."""
            super().log_means(means, logs)
            metrics = self.eval_metrics()
            for name in means.keys() - {"loss"}:
                metrics[name] = [means[name]]

    return CountingTrainer


@functools.cache
def counting_pairs(trainer_class: Any, counted: Counted) -> Any:
    """A TRL trainer that takes rows from `PairCollator`, and evaluates the mean over all pairs."""

    class CountingPairsTrainer(counting_rows(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `counting_pairs`."""

        def count_of(self, inputs: Any) -> Any:
            """The number of pairs."""
            return pairs_that_count(inputs).sum()

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Evaluate a batch; the last ones of several processes pair by pair, since they are filled up unevenly."""
            counts = pairs_that_count(inputs)
            together = self.accelerator.gather(counts)
            if together.all():
                self._share = 1.0
                return super().prediction_step(model, inputs, *args, **kwargs)
            found: Any = None
            for number, share in enumerate(together.view(-1, len(counts)).float().mean(0).tolist()):
                self._share = share or 1.0
                pair = {name: value[number :: len(counts)] for name, value in inputs.items()}
                found = super().prediction_step(model, pair, *args, **kwargs)
            return found

    return CountingPairsTrainer


class Referring:
    """A part of TRL trainers whose reference is the start of training, for any of them that has a `ref_model`.

    Without a `ref_model`, TRL switches the adapter off, which is the start of a new one. For another start, `ref_model`
    is a `FrozenStart`.
    """

    ref_model: Any
    reference_columns: tuple[str, ...] = ()
    """Columns for the log-probabilities that `compute_ref_log_probs` returns, if they are computed before training."""

    @contextlib.contextmanager
    def referring(self) -> Iterator[Any]:
        """The reference, as a model to call, without gradients."""
        import torch
        from trl.models.utils import disable_gradient_checkpointing

        model, kwargs = self.model, self.args.gradient_checkpointing_kwargs  # type: ignore[attr-defined]
        is_off = model.disable_adapter() if self.ref_model is None else contextlib.nullcontext()
        with torch.no_grad(), disable_gradient_checkpointing(model, kwargs), is_off:
            yield model if self.ref_model is None else self.ref_model


class ReferringTrainer(Referring):
    """A part of TRL's trainers with tokenised rows that compare the model with a reference."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Given a PEFT model without a reference, TRL adds a frozen copy of the adapter. It would be saved as well, and
        # not every method allows two adapters.
        super().__init__(*args, ref_model=_stand_in(kwargs["model"].config), **kwargs)  # type: ignore[call-arg]
        self.ref_model = None

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """The rows as they are: they are already tokenised."""
        return dataset


@functools.cache
def reference_trainer_class(trainer_class: Any, counted: Counted) -> Any:
    """A TRL trainer of single rows whose reference is the start of training. See `counting_rows`."""

    class ReferenceTrainer(ReferringTrainer, counting_rows(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `reference_trainer_class`; a subclass defines `count_of`."""

    return ReferenceTrainer


@functools.cache
def pair_trainer_class(trainer_class: Any, counted: Counted) -> Any:
    """A TRL trainer of pairs whose reference is the start of training. See `counting_pairs`."""

    class PairTrainer(ReferringTrainer, counting_pairs(trainer_class, counted)):  # type: ignore[misc, unused-ignore]
        """See `pair_trainer_class`."""

        reference_columns = PAIR_COLUMNS

    return PairTrainer


def _stand_in(config: Any) -> Any:
    """A module without parameters in the place of a reference model while the trainer is created."""
    import torch

    module = torch.nn.Module()
    module.config = config
    return module


def pairs_that_count(inputs: Any) -> Any:
    """For each pair of a batch, True if it has an answer: pairs that fill up the last batch of a rank have none."""
    return inputs["completion_mask"].chunk(2)[0].bool().any(1)
