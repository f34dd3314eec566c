"""The base class of classification objectives: label names, class weights, and transformers' `Trainer`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
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
    "dataset.fallback_prompt_templates",
    "dataset.completion_template",
    "dataset.system_template",
    "evaluation.exact_match",
    "evaluation.answer_pattern",
    "evaluation.group_by",
    "evaluation.max_samples",
)
"""Keys for generating text, which have no effect on classification."""

_WIDTH, _RATE = 384, 1e-3


class LabelObjective(Objective):
    """An objective with a new classification head, configured in `[classification]`."""

    toml: ClassVar[str] = "classification"
    shows: ClassVar[Mapping[str, str]] = {"accuracy": "accuracy", "f1": "F1", "pearson": "Pearson"}
    library: ClassVar[str] = "transformers"
    upstream: ClassVar[str] = "transformers.Trainer"
    collator: ClassVar[str]
    """Name of the data collator in transformers."""
    names_classes: ClassVar[str] = "name them here"
    """Remedy if the classes are unknown."""

    max_seq_length: PositiveInt = 256
    """Maximum length of a row in tokens. Longer rows are truncated at the end, and their number is reported."""
    labels: tuple[Column, ...] = Field(default=(), max_length=10_000)
    """Names of the classes or tags, in the order of their ids; default: those found in the training rows."""
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = "none"
    """Class weights in the loss: `balanced` by the number of rows, or a list in the order of the labels."""

    @classmethod
    def rate(cls, width: int) -> float:
        """LoRA's rates for RoBERTa (Hu et al. 2021, arXiv 2106.09685, table 9), falling with the width."""
        return _RATE * _WIDTH / width

    def conflicts(self) -> Iterator[Conflict]:
        """A number of class weights that differs from the number of labels."""
        if self.labels and isinstance(self.class_weights, tuple) and len(self.class_weights) != len(self.labels):
            yield Conflict(
                (self.key("labels"), self.key("class_weights")),
                f"{len(self.class_weights)} `class_weights` for {len(self.labels)} `labels`",
                "write one weight for each label, in the same order",
            )

    def lost_in_a_stream(self) -> Iterator[tuple[str, str, str]]:
        """Unknown class names, and balanced class weights."""
        if not self.labels:
            what = "the classes of a stream are not known before it is read"
            yield self.key("labels"), what, self.names_classes
        if self.class_weights == "balanced":
            what = "the number of rows of each class in a stream is not known before it is read"
            yield self.key("class_weights"), what, "write a weight for each class"

    def problem_type_of(self, _model: Any) -> str | None:
        """The problem type of a loaded model, by its transformers name; None for tags of words."""
        raise NotImplementedError

    def metrics(self, logits: Any, expected: Any, labels: Sequence[str], problem_type: str | None) -> dict[str, float]:
        """Metrics of predictions, which are the output of `kept_logits`."""
        raise NotImplementedError

    def kept_logits(self, logits: Any) -> Any:
        """The part of the logits that is kept until all rows are evaluated."""
        return logits

    def config_class(self) -> Any:
        """`transformers.TrainingArguments`."""
        import transformers

        return transformers.TrainingArguments

    def arguments(self, _row_parts: int) -> dict[str, Any]:
        """No arguments in addition to those of every run."""
        return {}

    def trainer_class(self, counted: Counted) -> Any:
        """transformers' `Trainer`, with a mean loss that depends on neither micro-batch nor batch size."""
        return _trainer_class(counted)

    def trainer_kwargs(self, model: Any, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> dict[str, Any]:
        """Data collator and metrics. Also sets the model's padding token to the tokenizer's."""
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
        """Set problem type, class weights and loss function."""
        trainer.problem_type = self.problem_type_of(trainer.model)
        trainer.weights = class_weights(self.class_weights, labels, rows)
        trainer.compute_loss_func = trainer.loss_from


@functools.cache
def _trainer_class(counted: Counted) -> Any:
    import torch
    from transformers import Trainer

    class LabelTrainer(counted(Trainer)):  # type: ignore[misc, unused-ignore]
        """A trainer whose loss is the mean over all labelled items of the global batch or of the evaluation rows.

        The mean is not divided by the sum of class weights: it would then depend on the classes in a batch.
        """

        problem_type: str | None = None
        weights: Sequence[float] | None = None
        predicted: tuple[Any, Any] = (None, None)
        """Output of `kept_logits` and expected labels of the last evaluation, without rows that fill up a batch."""

        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            """Evaluate, and keep the predictions."""
            output = super().evaluation_loop(*args, **kwargs)
            if output.label_ids is not None:
                self.predicted = _that_count(output.predictions, output.label_ids)
            return output

        def _count(self, labels: Any) -> Any:
            """Labels in the form that `Trainer` counts, where no score equals the ignored label."""
            return labels.isnan() * IGNORED if labels.is_floating_point() else labels

        def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Any:
            if not torch.is_grad_enabled():
                return None  # in an evaluation, each process weights its own batches, see `counted`
            # `shift_labels` are counted unchanged. From `labels`, the trainer drops the first token of each row if a
            # decoder tags words, because it assumes a next-token loss.
            found = [self._count(batch["labels"]) for batch in batch_samples]
            counted = [{"labels": labels, "shift_labels": labels} for labels in found]
            return super()._get_num_items_in_batch(counted, device)

        def loss_from(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            """The `compute_loss_func`: the mean over the global batch, or over this batch if its size is unknown."""
            logits = outputs["logits"]
            weights = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
            count = self._count(labels).ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            return loss_of(logits, labels, self.problem_type, weights, self.args.label_smoothing_factor) / count

        def count_of(self, inputs: Any) -> Any:
            """The number of labelled items."""
            return self._count(inputs["labels"]).ne(IGNORED).sum()

    return LabelTrainer


def _that_count(predicted: Any, expected: Any) -> tuple[Any, Any]:
    """Rows with a label. With several processes, rows without one fill up the last batches."""
    import numpy

    has_label = ~numpy.isnan(expected) if expected.dtype.kind == "f" else expected != IGNORED
    counts = has_label.reshape(len(expected), -1).any(-1)
    return predicted[counts], expected[counts]
