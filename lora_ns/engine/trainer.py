"""The trainers: TRL's for text, transformers' for labels, each with the arguments that the plan decided."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.arguments import sft_arguments, training_arguments
from lora_ns.engine.classifier import class_weights, classifier_trainer_class, kept_logits, metrics_of
from lora_ns.engine.render import IGNORED
from lora_ns.engine.scoring import AnswerScorer
from lora_ns.plan import Plan
from lora_ns.recipe.recipe import Recipe

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback


def make_trainer(
    recipe: Recipe,
    plan: Plan,
    checkpoints: Path,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    data: tuple[datasets.Dataset, datasets.Dataset | None],
    callbacks: Sequence[TrainerCallback],
    evaluate_first: bool,
    labels: Sequence[str] = (),
) -> Trainer:
    """The trainer of the recipe's task, ready to train."""
    shared = {"model": model, "train_dataset": data[0], "eval_dataset": data[1], "processing_class": tokenizer}
    if recipe.task_type == "CAUSAL_LM":
        trainer = _causal(sft_arguments(recipe, plan, checkpoints), shared)
    else:
        trainer = _classifier(training_arguments(recipe, plan, checkpoints), shared, recipe, labels)
    trainer.args.eval_on_start = trainer.args.eval_on_start and evaluate_first
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def _causal(arguments: dict[str, Any], shared: dict[str, Any]) -> Trainer:
    import trl

    # Over a quantised base, TRL rounds what is trained to bfloat16. Here it stays in float32, as over any other base.
    trained = {name: value.data for name, value in shared["model"].named_parameters() if value.requires_grad}
    trainer: Trainer = repeatable(causal_trainer_class())(args=trl.SFTConfig(**arguments), **shared)
    for name, parameter in shared["model"].named_parameters():
        if name in trained:
            parameter.data = trained[name]
    return trainer


@functools.cache
def sampler_class() -> Any:
    """transformers' `LengthGroupedSampler` with its batches in a random order that follows from seed and epoch alone.

    The original goes from the longest rows to the shortest, fifty batches at a time: where length tells kinds of rows
    apart, a model sees them one kind after the other. It also draws from the global generator, which an evaluation
    moves on: a resumed run, which does not evaluate before its first step, would see the rows in another order.
    """
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class EpochSampler(LengthGroupedSampler):  # type: ignore[misc, unused-ignore]
        """Batches of like length, shuffled anew in each epoch."""

        seed = 0
        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            """Called at the beginning of each epoch, also of the one that a run is resumed in."""
            self.epoch = epoch

        def __iter__(self) -> Any:
            self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
            rows = list(super().__iter__())
            batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
            # The longest rows stay first, where they show at once that memory is short; a short batch stays last.
            whole = max(1, len(rows) // self.batch_size)
            order = torch.randperm(whole - 1, generator=self.generator).tolist()
            moved = [batches[0], *(batches[1 + number] for number in order), *batches[whole:]]
            return itertools.chain.from_iterable(moved)

    return EpochSampler


@functools.cache
def repeatable(trainer_class: Any) -> Any:
    """A trainer class whose rows come in the same order whether or not the run was interrupted."""

    class RepeatableTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """See `sampler_class`."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(train_dataset)
            if self.args.train_sampling_strategy != "group_by_length":
                return sampler
            repeated = sampler_class()(sampler.batch_size, lengths=sampler.lengths)
            repeated.seed = self.args.seed
            return repeated

    return RepeatableTrainer


@functools.cache
def causal_trainer_class() -> Any:
    """TRL's `SFTTrainer` with an evaluation loss that is the mean over all tokens, whatever the batches were.

    On a CPU, it scores the positions in the loss alone; see `scoring`.
    """
    import trl

    class CausalTrainer(trl.SFTTrainer):  # type: ignore[misc, unused-ignore]
        """`SFTTrainer` averages the means of the batches, so that its `eval_loss` depends on the batch size."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """TRL's loss, from scores of the positions in it where that is less work."""
            own_logits = return_outputs or self.compute_loss_func or self.label_smoother or self.aux_loss_enabled
            if not own_logits and AnswerScorer.fits(model):
                model = AnswerScorer(model, self.accelerator)
            return super().compute_loss(model, inputs, return_outputs, **kwargs)

        def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            """Add the batch's loss and accuracy to the sums, by its number of tokens."""
            tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
            loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
            counts = self.accelerator.gather_for_metrics(tokens.to(loss.device)[None])
            losses = self.accelerator.gather_for_metrics(loss.detach()[None])
            sums = self.__dict__.setdefault("_eval_sums", [0.0, 0.0, 0])
            sums[0] += float((losses * counts).sum())
            sums[1] += self._metrics["eval"]["mean_token_accuracy"][-1] * int(counts.sum())
            sums[2] += int(counts.sum())
            return loss, logits, labels

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            """Put the means over tokens in the place of the means over batches."""
            sums = self.__dict__.pop("_eval_sums", None) if "eval_loss" in logs else None
            if sums and sums[2]:
                logs["eval_loss"] = sums[0] / sums[2]
                self._metrics["eval"]["mean_token_accuracy"] = [sums[1] / sums[2]]
            super().log(logs, start_time)

    return CausalTrainer


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
    trainer.weights = class_weights(recipe, labels, shared["train_dataset"])
    trainer.compute_loss_func = trainer.loss_from
    return trainer
