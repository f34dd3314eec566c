"""What objectives that label share: the names of the labels, their weights in the loss, transformers' `Trainer`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lora_ns.objectives.base import Counted, Objective
from lora_ns.objectives.label_loss import class_weights, loss_of
from lora_ns.table import IGNORED, Column, Conflict, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

WRITING_TEXT = (
    "generation",
    "dataset.prompt_template",
    "dataset.completion_template",
    "dataset.system_template",
    "evaluation.exact_match",
    "evaluation.answer_pattern",
    "evaluation.group_by",
    "evaluation.max_samples",
)
"""Keys of what writes text."""

_WIDTH, _RATE = 384, 1e-3


class LabelObjective(Objective):
    """An objective of a model with a head made anew, whose keys are in `[classification]`."""

    toml: ClassVar[str] = "classification"
    library: ClassVar[str] = "transformers"
    collator: ClassVar[str]
    """Name of transformers' class that makes batches."""
    names_classes: ClassVar[str] = "name them here"
    """How a recipe says which classes there are."""

    max_seq_length: PositiveInt = 256
    """Longest row, in tokens; the end of a longer one is cut and counted."""
    labels: tuple[Column, ...] = Field(default=(), max_length=10_000)
    """Names of the classes or tags in the order of their numbers; found in the training rows if absent."""
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = "none"
    """Weights of the classes in the loss, `balanced` by their number of rows, or in the order of the labels."""

    @classmethod
    def rate(cls, width: int) -> float:
        """LoRA's rates for RoBERTa (Hu et al. 2021, arXiv 2106.09685, table 9), falling with the width."""
        return _RATE * _WIDTH / width

    def conflicts(self) -> Iterator[Conflict]:
        """Weights that are not one for each label."""
        if self.labels and isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.labels):
            yield Conflict(
                (self.key("labels"), self.key("class_weights")),
                f"{len(self.class_weights)} `class_weights` for {len(self.labels)} `labels`",
                "give one for each, in their order",
            )

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """The names of classes, and how many rows each has."""
        if not self.labels:
            what = "the classes of a stream are not known before it is read"
            yield self.key("labels"), what, self.names_classes
        if self.class_weights == "balanced":
            what = "how many rows of a stream each class has is not known before it is read"
            yield self.key("class_weights"), what, "write a weight for each"

    def problem_type_of(self, _model: Any) -> str | None:
        """What a label is, by transformers' name, of a model that was loaded for it; None for the tags of words."""
        raise NotImplementedError

    def metrics(self, logits: Any, expected: Any, labels: Sequence[str], problem_type: str | None) -> dict[str, float]:
        """What is measured on predictions that `kept_logits` has made."""
        raise NotImplementedError

    def kept_logits(self, logits: Any) -> Any:
        """What is kept of a model's scores until all rows are measured."""
        return logits

    def config_class(self) -> Any:
        """`transformers.TrainingArguments`."""
        import transformers

        return transformers.TrainingArguments

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """None beside those of every run."""
        return {}

    def trainer_class(self, counted: Counted) -> Any:
        """transformers' `Trainer`, with a mean loss that depends on neither the micro-batch nor the batch."""
        return _trainer_class(counted)

    def trainer_kwargs(self, model: Any, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> dict[str, Any]:
        """Collator and metrics; the model pads with the tokenizer's token."""
        import transformers

        model.config.pad_token_id = tokenizer.pad_token_id
        problem_type = self.problem_type_of(model)

        def metrics(prediction: Any) -> dict[str, float]:
            logits, expected = _that_count(prediction.predictions, prediction.label_ids)
            return self.metrics(logits, expected, labels, problem_type)

        return {
            "data_collator": getattr(transformers, self.collator)(tokenizer),
            "compute_metrics": metrics,
            "preprocess_logits_for_metrics": lambda logits, _: self.kept_logits(
                logits[0] if isinstance(logits, tuple) else logits
            ),
        }

    def complete(self, trainer: Any, labels: Sequence[str], rows: datasets.Dataset) -> None:
        """The kind of problem, the weights of the classes, and the loss."""
        trainer.problem_type = self.problem_type_of(trainer.model)
        trainer.weights = class_weights(self.class_weights, labels, rows)
        trainer.compute_loss_func = trainer.loss_from


@functools.cache
def _trainer_class(counted: Counted) -> Any:
    import torch
    from transformers import Trainer

    class LabelTrainer(counted(Trainer)):  # type: ignore[misc, unused-ignore]
        """The mean is over what has a label, in the whole global batch or all evaluation rows.

        The sum of the weights is not in it: a mean over weights would move with the classes that a batch happens to
        have.
        """

        problem_type: str | None = None
        weights: Sequence[float] | None = None

        def _count(self, labels: Any) -> Any:
            """What has a label, as `Trainer` counts it: no score is left out, whatever number it is."""
            return labels.isnan() * IGNORED if labels.is_floating_point() else labels

        def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
            if not torch.is_grad_enabled():
                return None  # an evaluation weighs the batches of each process by themselves, see `counted`
            # As `shift_labels` they are counted as they are. The trainer leaves out the first token of each row where a
            # decoder tags words: it takes that loss for one of next tokens.
            found = [self._count(batch["labels"]) for batch in batch_samples]
            counted = [{"labels": labels, "shift_labels": labels} for labels in found]
            return super()._get_num_items_in_batch(counted, device)

        def loss_from(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            """The `compute_loss_func`: the mean over the global batch, or over the one at hand."""
            logits = outputs["logits"]
            weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
            count = self._count(labels).ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            return loss_of(logits, labels, self.problem_type, weights, self.args.label_smoothing_factor) / count

        def count_of(self, inputs: Any) -> Any:
            """What has a label."""
            return self._count(inputs["labels"]).ne(IGNORED).sum()

    return LabelTrainer


def _that_count(predicted: Any, expected: Any) -> tuple[Any, Any]:
    """Rows with anything to predict: the last batches of several processes are filled up."""
    import numpy

    has_label = ~numpy.isnan(expected) if expected.dtype.kind == "f" else expected != IGNORED
    counts = has_label.reshape(len(expected), -1).any(-1)
    return predicted[counts], expected[counts]
