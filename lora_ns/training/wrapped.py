"""What every trainer class gets: repeatable order, adapter-only checkpoints."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.parallel.context import cutting_rows, undealt
from lora_ns.parallel.group import hand_out
from lora_ns.parallel.sharding import forget_frozen, put_together, saved_by_first
from lora_ns.run.last_checkpoint import best_of
from lora_ns.training.going_on import telling_checkpoints
from lora_ns.training.sampler import sampler_class

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback


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
        """See `sampler_class`, and `regularization` of a method."""

        own_optimizer = None
        regularization: Callable[[Any], Tensor | None] | None = None
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
            if return_outputs or not model.training or self.regularization is None:
                return found
            if (term := self.regularization(self.accelerator.unwrap_model(model))) is None:
                return found
            # The loss of rows is divided by their number in the whole batch, so that micro-batches add up.
            steps = 1 if kwargs.get("num_items_in_batch") is None else self.current_gradient_accumulation_steps
            return found + term / steps

    return RepeatableTrainer
