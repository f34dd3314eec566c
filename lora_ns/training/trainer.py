"""The trainers: TRL's for text, transformers' for labels, each with the arguments that the plan decided."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_ns.arguments import sft_arguments, training_arguments
from lora_ns.checkpoints import best_of
from lora_ns.engine.classifier import begin_at_mean, class_weights, classifier_trainer_class, kept_logits, metrics_of
from lora_ns.engine.context_parallel import cutting_rows, undealt
from lora_ns.engine.distributed import hand_out
from lora_ns.engine.evaluation import counted
from lora_ns.engine.going_on import telling_checkpoints
from lora_ns.engine.regularization import has_regularization, regularization
from lora_ns.engine.render import IGNORED
from lora_ns.engine.scoring import AnswerScorer, HeadScorer
from lora_ns.engine.sharding import divided_layers, forget_frozen, put_together, saved_by_first
from lora_ns.errors import PlanError, Problem
from lora_ns.plan import Plan
from lora_ns.recipe.distributed import OneProcess
from lora_ns.recipe.load import LoadedRecipe
from lora_ns.recipe.peft import AdaLora, Lora
from lora_ns.recipe.recipe import Recipe

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback


def check_arguments(loaded: LoadedRecipe, plan: Plan, checkpoints: Path) -> None:
    """See that trainer, optimizer and schedule take their settings, before anything is written.

    Raises:
        PlanError: with the value that the installed libraries refuse, and their reason.
    """
    import torch
    import transformers
    import trl

    # Who divides the work among processes is asked in them.
    recipe = loaded.recipe.model_copy(update={"distributed": OneProcess()})
    alone = plan.model_copy(update={"deepspeed": None})
    key = "training.extra" if recipe.training.extra else "training"
    _check_types(loaded)
    with _telling(loaded, key):
        arguments = transformers.TrainingArguments(**training_arguments(recipe, alone, checkpoints))
    with _telling(loaded, "training.optim"):
        _check_optimizer(loaded, arguments)
    with _telling(loaded, "training.lr_scheduler_type"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
        transformers.get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            arguments.warmup_steps,
            arguments.max_steps,
            arguments.lr_scheduler_kwargs,
        )
    with _telling(loaded, key):
        _rehearse(arguments)
        if recipe.task_type == "CAUSAL_LM":
            trl.SFTConfig(**sft_arguments(recipe, plan, checkpoints))
        else:
            transformers.TrainingArguments(**training_arguments(recipe, plan, checkpoints))


def _check_optimizer(loaded: LoadedRecipe, arguments: Any) -> None:
    """See that the optimizer is there and reads what it is given. Raises `PlanError`, or what the libraries raise."""
    from transformers import Trainer

    given, kwargs = arguments.optim_args, Trainer.get_optimizer_cls_and_kwargs(arguments)[1]
    if given is None:
        return
    without = copy.copy(arguments)
    without.optim_args = None
    if Trainer.get_optimizer_cls_and_kwargs(without)[1] == kwargs:
        what = f"training.extra.optim_args: {arguments.optim} reads nothing of {given!r}"
        raise PlanError(Problem(loaded.where("training.extra.optim_args"), what, "remove it"))


_AT_LEAST = {"eval_accumulation_steps": 1, "adam_epsilon": 0, "eval_delay": 0, "ddp_bucket_cap_mb": 1}
_AT_MOST = {"label_smoothing_factor": 1}
"""Bounds that the installed trainer does not look at; it stops in the middle of a run, or trains nonsense."""


def _check_types(loaded: LoadedRecipe) -> None:
    """See that further arguments have the types of their fields, which the trainer does not look at.

    Raises:
        PlanError: with each value that has another one, or is out of bounds.
    """
    import transformers
    from pydantic import TypeAdapter, ValidationError

    types = {field.name: field.type for field in dataclasses.fields(transformers.TrainingArguments)}
    problems = []
    for key, value in loaded.recipe.training.extra.items():
        try:
            TypeAdapter(cast("Any", types[key])).validate_python(value, strict=True)
        except ValidationError as error:
            what = " or ".join(dict.fromkeys(_lowered(fault["msg"]) for fault in error.errors()))
        else:
            what = _out_of_bounds(key, value)
        if what:
            place = f"training.extra.{key}"
            problems.append(Problem(loaded.where(place), f"{place}: {value!r}: {what}", "write another value"))
    if problems:
        raise PlanError(problems)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _out_of_bounds(key: str, value: Any) -> str:
    least, most = _AT_LEAST.get(key, 0 if key in _AT_MOST else None), _AT_MOST.get(key)
    if not isinstance(value, (int, float)) or least is None:
        return ""
    if not math.isfinite(value) or value < least:
        return f"input should be at least {least}"
    return "" if most is None or value < most else f"input should be below {most}"


def _rehearse(arguments: Any) -> None:
    """Make a trainer of one weight with its loaders and its optimizer.

    What a trainer refuses when it is made or when it starts, it refuses here, before there is a run.
    """
    import torch
    import transformers

    arguments.report_to, arguments.full_determinism = [], False  # packages are looked for elsewhere
    rows = [{"input_ids": [0], "labels": [0], "length": 1}] * arguments.train_batch_size
    model: Any = torch.nn.Linear(1, 1, bias=False)
    model.config = transformers.PretrainedConfig()
    with tempfile.TemporaryDirectory(prefix="lorans-") as arguments.output_dir:  # which a trainer makes
        trainer = transformers.Trainer(model, arguments, list, rows, rows)
    trainer.get_train_dataloader()
    trainer.get_eval_dataloader()
    trainer.create_optimizer()
    if arguments.torch_compile:
        torch.compile(model, backend=arguments.torch_compile_backend, mode=arguments.torch_compile_mode)


@contextlib.contextmanager
def _telling(loaded: LoadedRecipe, key: str) -> Iterator[None]:
    """Turn what a library says of a value into one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = f"there is no {reason}" if isinstance(error, KeyError) else reason
        raise PlanError(Problem(loaded.where(key), f"{key}: {reason}", "write another value")) from error


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
    is_causal = recipe.task_type == "CAUSAL_LM"
    arguments = (sft_arguments if is_causal else training_arguments)(recipe, plan, checkpoints)
    if arguments["fsdp"]:
        arguments["fsdp_config"]["transformer_layer_cls_to_wrap"] = divided_layers(model) or None
    trainer = _causal(arguments, shared) if is_causal else _classifier(arguments, shared, recipe, labels)
    trainer.row_parts = recipe.distributed.row_parts
    trainer.args.eval_on_start = trainer.args.eval_on_start and evaluate_first
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for callback in (*callbacks, epoch_order(), *([rank_allocation()] if isinstance(recipe.peft, AdaLora) else [])):
        trainer.add_callback(callback)
    return trainer


def choose_optimizer(trainer: Trainer, recipe: Recipe) -> None:
    """Give the trainer an optimizer of the method's own, once nothing else takes the place of what is trained.

    That of LoRA+ is made when the trainer asks for one, since DeepSpeed's integration takes no other; that of LoRA-FA
    at once, since it freezes the first factors.
    """
    ratio, method = getattr(recipe.peft, "loraplus_lr_ratio", None), recipe.peft
    if ratio is not None:
        trainer.own_optimizer = lambda: _loraplus_optimizer(trainer, ratio)
    elif isinstance(method, Lora) and method.use_lora_fa:
        trainer.optimizer = _lorafa_optimizer(trainer, method)


def leave_training(trainer: Trainer) -> None:
    """Schedule-free optimizers have other weights in training than those that are to be evaluated and saved."""
    optimizer: Any = trainer.optimizer
    if callable(getattr(optimizer, "eval", None)):
        optimizer.eval()


def _causal(arguments: dict[str, Any], shared: dict[str, Any]) -> Trainer:
    import trl

    # Over a quantised base, TRL rounds what is trained to bfloat16. Here it stays in float32, as over any other base.
    trained = {name: value.data for name, value in shared["model"].named_parameters() if value.requires_grad}
    try:
        trainer: Trainer = repeatable(causal_trainer_class())(args=trl.SFTConfig(**arguments), **shared)
    except ValueError as error:  # what TRL cannot train, such as the embeddings of a base that ties them to its head
        reason = str(error).strip().splitlines()[0]
        raise PlanError(Problem("", f"peft.method: TRL refuses it: {reason}", "choose another method")) from error
    for name, parameter in shared["model"].named_parameters():
        if name in trained:
            parameter.data = trained[name]
    return trainer


def _loraplus_optimizer(trainer: Trainer, ratio: float) -> Any:
    """The recipe's optimizer, with a higher learning rate for the second factors."""
    import transformers
    from peft.optimizers import create_loraplus_optimizer

    kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    rate = settings.pop("lr")
    decay = trainer.args.weight_decay
    return create_loraplus_optimizer(
        trainer.model, kind, lr=rate, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay, **settings
    )


def _lorafa_optimizer(trainer: Trainer, method: Lora) -> Any:
    """PEFT's AdamW for the second factors; the first ones are frozen here."""
    from peft.optimizers import create_lorafa_optimizer

    args = trainer.args
    optimizer = create_lorafa_optimizer(
        trainer.model, method.lora_r, method.lora_alpha, args.learning_rate, args.weight_decay
    )
    for group in optimizer.param_groups:
        group.update(betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
    return optimizer


def rank_allocation() -> TrainerCallback:
    """The step of AdaLoRA that PEFT leaves to who trains: after each optimizer step, ranks are weighed and cut."""
    import transformers

    class RankAllocation(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Called while the gradients are still there."""

        def on_optimizer_step(self, _args: Any, state: Any, _control: Any, *, model: Any, **_: Any) -> None:
            model.base_model.update_and_allocate(state.global_step + 1)

    return RankAllocation()


def epoch_order() -> TrainerCallback:
    """Tell the sampler its epoch.

    A run of several processes that is resumed within an epoch skips batches by a loader that hands no epoch on, and
    would go on in the order of the first one.
    """
    import transformers

    class EpochOrder(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Called before the batches that are done with are skipped."""

        def on_epoch_begin(self, _args: Any, state: Any, _control: Any, *, train_dataloader: Any, **_: Any) -> None:
            if hasattr(train_dataloader, "set_epoch"):
                train_dataloader.set_epoch(int(state.epoch or 0))

    return EpochOrder()


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
def saving_in_parts(trainer_class: Any) -> Any:
    """A trainer class whose checkpoints have what is trained alone, however the weights are divided."""

    class SavingTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """transformers would put a divided base together for each checkpoint."""

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """The adapter of a checkpoint."""
            if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
                super().save_model(output_dir, _internal_call)
                return
            divide_again = put_together(self)
            self._save(output_dir)
            divide_again()

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            """What a run is resumed from; of the weights under FSDP, those that are trained.

            accelerate writes both by rank 0 alone, whether or not each machine has checkpoints of its own.
            """
            super()._save_optimizer_and_scheduler(output_dir)
            if not self.is_fsdp_enabled:
                return
            if self.accelerator.is_main_process:
                forget_frozen(self.model, Path(output_dir))
            if self.args.save_on_each_node:
                for file in saved_by_first(Path(output_dir)):
                    hand_out(file, self.args.should_save)

    return SavingTrainer


@functools.cache
def ending_in_time(trainer_class: Any) -> Any:
    """A trainer class that trains no step after the last one, where a run goes on from its last checkpoint."""
    import datasets

    class EndingTrainer(telling_checkpoints(trainer_class)):  # type: ignore[misc, unused-ignore]
        """transformers would train one more batch before it looks whether it is done."""

        def _init_training_state(self, *asked: Any) -> Any:
            """The state to go on with; the best checkpoint so far is beside the one that says so."""
            begun = super()._init_training_state(*asked)
            if checkpoint := asked[3]:
                best = best_of(Path(checkpoint))
                self.state.best_model_checkpoint = str(best) if best else None
            return begun

        def _run_epoch(self, **kwargs: Any) -> None:
            """An epoch; nothing of it after the last step.

            A stream says at the end what became of its rows: it is read as far as it was trained on.
            """
            if self.state.global_step < self.state.max_steps:
                super()._run_epoch(**kwargs)
                return
            if isinstance(self.train_dataset, datasets.IterableDataset):
                done = self.state.max_steps * self.args.gradient_accumulation_steps
                for _ in itertools.islice(kwargs["train_dataloader"], done):
                    pass
            self.control.should_training_stop = True

    return EndingTrainer


@functools.cache
def repeatable(trainer_class: Any) -> Any:
    """A trainer class whose rows come in the same order whether or not the run was interrupted.

    What a method adds to the loss is in that of training steps, and not in that of an evaluation.
    """

    class RepeatableTrainer(ending_in_time(saving_in_parts(trainer_class))):  # type: ignore[misc, unused-ignore]
        """See `sampler_class` and `regularization`."""

        own_optimizer = None
        row_parts = 1

        def get_train_dataloader(self) -> Any:
            """The rows of this process, or its part of the rows that all share."""
            if self.row_parts == 1:
                return super().get_train_dataloader()
            with cutting_rows(self):
                return undealt(super().get_train_dataloader())

        def create_optimizer(self, model: Any = None) -> Any:
            """The method's own, or the recipe's."""
            if self.own_optimizer is None:
                return super().create_optimizer(model)
            self.optimizer = self.own_optimizer()
            return self.optimizer

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(train_dataset)
            if self.args.train_sampling_strategy != "group_by_length":
                return sampler
            # Of the whole batch: the order of the rows does not depend on the number of processes.
            size = sampler.batch_size * self.args.world_size // self.row_parts
            repeated = sampler_class()(size, lengths=sampler.lengths)
            repeated.seed = self.args.seed
            return repeated

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """The loss of the rows, and in a training step what the method adds to it."""
            found = super().compute_loss(model, inputs, return_outputs, **kwargs)
            adapted = self.accelerator.unwrap_model(model)
            if return_outputs or not model.training or not has_regularization(adapted):
                return found
            # The loss of rows is divided by their number in the whole batch, so that micro-batches add up.
            steps = 1 if kwargs.get("num_items_in_batch") is None else self.current_gradient_accumulation_steps
            return found + regularization(adapted) / steps

    return RepeatableTrainer


@functools.cache
def causal_trainer_class() -> Any:
    """TRL's `SFTTrainer` with an evaluation loss that is the mean over all tokens, whatever the batches were.

    On a CPU, it scores the positions in the loss alone; see `scoring`.
    """
    import trl

    class CausalTrainer(counted(trl.SFTTrainer)):  # type: ignore[misc, unused-ignore]
        """See `causal_trainer_class`."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """TRL's loss, from scores of the positions in it where that is less work."""
            own_logits = return_outputs or self.compute_loss_func or self.label_smoother or self.aux_loss_enabled
            in_parts = self.is_fsdp_enabled or self.is_deepspeed_enabled
            kinds = (HeadScorer,) if in_parts else (HeadScorer, AnswerScorer)
            scorer = next((kind for kind in kinds if kind.fits(model)), None)
            if not own_logits and scorer:
                model = scorer(model, self.accelerator)
            return super().compute_loss(model, inputs, return_outputs, **kwargs)

        def count_of(self, inputs: Any) -> Any:
            """The tokens whose prediction is in the loss."""
            return (inputs["labels"][:, 1:] != IGNORED).sum()

        def batch_means(self) -> dict[str, float]:
            """TRL's accuracy of the batch."""
            return {"mean_token_accuracy": self._metrics["eval"]["mean_token_accuracy"][-1]}

        def tell_means(self, means: dict[str, float], logs: dict[str, float]) -> None:
            """TRL logs the mean of what stands among its own metrics."""
            super().tell_means(means, logs)
            self._metrics["eval"]["mean_token_accuracy"] = [means["mean_token_accuracy"]]

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
    if problem_type == "regression":
        begin_at_mean(model, shared["train_dataset"])
    trainer.weights = class_weights(recipe, labels, shared["train_dataset"])
    trainer.compute_loss_func = trainer.loss_from
    return trainer
