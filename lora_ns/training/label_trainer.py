"""transformers' trainer for classes, labels, scores and tags."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.objectives.metrics import classification_metrics, multi_label_metrics, regression_metrics, tag_metrics
from lora_ns.parallel.sharding import written_in_whole
from lora_ns.recipe.recipe import Recipe
from lora_ns.table import IGNORED
from lora_ns.training.eval_loss import counted
from lora_ns.training.wrapped import repeatable

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from torch import Tensor
    from transformers import Trainer


def loss_of(
    logits: Tensor, labels: Tensor, problem_type: str | None, weights: Tensor | None, smoothing: float = 0.0
) -> Tensor:
    """The loss summed over what has a label: rows, the labels of rows, or words.

    Each is multiplied by the weight of its class, or, of several labels, by the weight of those that apply. Rows whose
    labels are no numbers only fill up a batch, see `in_whole_batches`.
    """
    from torch.nn import functional

    logits = logits.float()
    if labels.is_floating_point():
        has_labels = ~labels.isnan().reshape(len(labels), -1).any(-1)
        logits, labels = logits[has_labels], labels[has_labels]
    if problem_type == "regression":
        return functional.mse_loss(logits.squeeze(-1), labels.float(), reduction="sum")
    if problem_type == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weights, reduction="sum")
    classes = logits.shape[-1]
    return functional.cross_entropy(
        logits.reshape(-1, classes),
        labels.reshape(-1),
        weights,
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def class_weights(recipe: Recipe, labels: Sequence[str], rows: datasets.Dataset) -> list[float] | None:
    """The weight of each class in the loss: given, or the mean number of a class's rows over that of its own.

    Of several labels, a balanced weight is the number of rows without the label over that of those with it. A class
    without rows weighs 1.
    """
    import numpy

    asked = recipe.classification.class_weights
    if asked == "none":
        return None
    if isinstance(asked, tuple):
        return list(asked)
    values = rows["labels"][:]
    if values and isinstance(values[0][0] if isinstance(values[0], list) else values[0], float):
        with_label = numpy.asarray(values).sum(axis=0)
        return [float((len(values) - count) / count) if count else 1.0 for count in with_label]
    flat = numpy.concatenate([numpy.atleast_1d(value) for value in values])
    counts = numpy.bincount(flat[flat != IGNORED], minlength=len(labels))
    present = int((counts > 0).sum())
    return [float(counts.sum() / (present * count)) if count else 1.0 for count in counts]


def begin_at_mean(model: PeftModel, rows: datasets.Dataset) -> None:
    """Have a new head that scores begin with the mean of the training scores, where its last layer has a bias.

    A head made anew answers about 0. Far from what the scores are, the first steps only move it there, with gradients
    that spoil what the base knows. The rows of a stream are not known yet: with those, it begins as it was made.
    """
    import datasets
    import torch

    biases = [
        value
        for name, value in model.named_parameters()
        if value.requires_grad and ".modules_to_save." in name and name.endswith(".bias")
    ]
    if not biases or not isinstance(rows, datasets.Dataset):
        return
    with torch.no_grad(), written_in_whole(biases[-1]):
        if biases[-1].shape == (1,):
            biases[-1].fill_(float(torch.as_tensor(rows["labels"][:], dtype=torch.float64).mean()))


@functools.cache
def classifier_trainer_class() -> Any:
    """transformers' `Trainer` with a mean loss that depends neither on the micro-batch nor on the evaluation batch.

    The mean is over what has a label, in the whole global batch or all evaluation rows. The sum of the weights is not
    in it: a mean over weights would move with the classes that a batch happens to have.
    """
    import torch
    from transformers import Trainer

    class ClassifierTrainer(counted(Trainer)):  # type: ignore[misc, unused-ignore]
        """See `classifier_trainer_class`."""

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

    return ClassifierTrainer


def metrics_of(recipe: Recipe, problem_type: str | None, labels: Sequence[str]) -> Callable[[Any], dict[str, float]]:
    """The Trainer's `compute_metrics`, on predictions that `first_logits` has made."""

    def metrics(prediction: Any) -> dict[str, float]:
        logits, expected = _that_count(prediction.predictions, prediction.label_ids)
        if recipe.task_type == "TOKEN_CLS":
            scored = expected != IGNORED
            sides = [
                [[labels[number] for number in row[kept]] for row, kept in zip(side, scored, strict=True)]
                for side in (logits, expected)
            ]
            return tag_metrics(*sides)
        if problem_type == "regression":
            return regression_metrics(logits.reshape(-1).tolist(), expected.tolist())
        if problem_type == "multi_label_classification":
            applies = _probable(logits, recipe.classification.threshold)
            return multi_label_metrics(applies.astype(int).tolist(), expected.astype(int).tolist())
        return classification_metrics(logits.argmax(-1).tolist(), expected.tolist(), len(labels))

    return metrics


def _that_count(predicted: Any, expected: Any) -> tuple[Any, Any]:
    """Rows with anything to predict: the last batches of several processes are filled up."""
    import numpy

    has_label = ~numpy.isnan(expected) if expected.dtype.kind == "f" else expected != IGNORED
    counts = has_label.reshape(len(expected), -1).any(-1)
    return predicted[counts], expected[counts]


def labels_that_count(rows: datasets.Dataset) -> list[Any]:
    """The labels of rows, and of words those that are scored; rows that only fill up a batch have none."""
    found = []
    for value in rows["labels"][:]:
        kept = [label for label in (value if isinstance(value, list) else [value]) if _counts(label)]
        if kept:
            found.append(kept if isinstance(value, list) else value)
    return found


def _counts(label: int | float) -> bool:
    return not math.isnan(label) if isinstance(label, float) else label != IGNORED


def _probable(logits: Any, threshold: float) -> Any:
    import numpy

    with numpy.errstate(over="ignore"):
        return 1 / (1 + numpy.exp(-logits)) >= threshold


def kept_logits(task_type: str) -> Callable[[Any, Any], Any]:
    """The Trainer's `preprocess_logits_for_metrics`: of what a model returns the scores, of words the best tag."""

    def kept(logits: Any, _: Any) -> Any:
        first = logits[0] if isinstance(logits, tuple) else logits
        return first.argmax(-1) if task_type == "TOKEN_CLS" else first

    return kept


def _classifier(arguments: dict[str, Any], shared: dict[str, Any], recipe: Recipe, labels: Sequence[str]) -> Trainer:
    import transformers

    tokenizer, model = shared["processing_class"], shared["model"]
    model.config.pad_token_id = tokenizer.pad_token_id
    problem_type = getattr(model.config, "problem_type", None) if recipe.task_type == "SEQ_CLS" else None
    collator = "DataCollatorForTokenClassification" if recipe.task_type == "TOKEN_CLS" else "DataCollatorWithPadding"
    trainer: Trainer = repeatable(classifier_trainer_class())(
        args=transformers.TrainingArguments(**arguments),
        data_collator=getattr(transformers, collator)(tokenizer),
        compute_metrics=metrics_of(recipe, problem_type, labels),
        preprocess_logits_for_metrics=kept_logits(recipe.task_type),
        **shared,
    )
    trainer.problem_type = problem_type
    if problem_type == "regression":
        begin_at_mean(model, shared["train_dataset"])
    trainer.weights = class_weights(recipe, labels, shared["train_dataset"])
    trainer.compute_loss_func = trainer.loss_from
    return trainer
