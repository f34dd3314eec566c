"""Extensions of every trainer class: a repeatable order of rows, and checkpoints of the adapter alone."""

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
from lora_ns.training.reading_checkpoints import telling_checkpoints
from lora_ns.training.sampler import sampler_class
from lora_ns.training.surviving import surviving
from lora_ns.training.tokens_seen import counting_tokens
from lora_ns.training.trouble import showing_batches

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerCallback


def epoch_order() -> TrainerCallback:
    """A callback that sets the sampler's epoch.

    When a run of several processes is resumed within an epoch, accelerate skips batches through a loader that does not
    pass the epoch on, and the run would continue in the order of the first epoch.
    """
    import transformers

    class EpochOrder(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Sets the epoch before the finished batches are skipped."""

        def on_epoch_begin(self, _args: Any, state: Any, _control: Any, *, train_dataloader: Any, **_: Any) -> None:
            if hasattr(train_dataloader, "set_epoch"):
                train_dataloader.set_epoch(int(state.epoch or 0))

    return EpochOrder()


@functools.cache
def saving_in_parts(trainer_class: Any) -> Any:
    """A trainer class whose checkpoints hold only trainable weights, with any sharding."""

    class SavingTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """Avoids gathering a sharded base for each checkpoint, as transformers would."""

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """Save the adapter of a checkpoint."""
            if not self.is_fsdp_enabled and not self.is_deepspeed_enabled:
                super().save_model(output_dir, _internal_call)
                return
            divide_again = put_together(self)
            self._save(output_dir)
            divide_again()

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            """Save optimizer and scheduler; under FSDP, the trainable weights alone.

            accelerate writes both on rank 0 only, even if each machine has its own checkpoints.
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
    """A trainer class that trains no further step when it resumes from the checkpoint of the last step."""
    import datasets

    class EndingTrainer(telling_checkpoints(trainer_class)):  # type: ignore[misc, unused-ignore]
        """Checks for the end before an epoch; transformers would train one more batch first."""

        def _init_training_state(self, *asked: Any) -> Any:
            """The state to resume with; the path of the best checkpoint follows a moved run directory."""
            begun = super()._init_training_state(*asked)
            if checkpoint := asked[3]:
                best = best_of(Path(checkpoint))
                self.state.best_model_checkpoint = str(best) if best else None
            return begun

        def _run_epoch(self, **kwargs: Any) -> None:
            """Train an epoch, unless the last step is done.

            A stream reports its findings at the end, so it is read up to the last row that was trained on.
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
    """A trainer class with the same order of rows in an interrupted and an uninterrupted run.

    The regularisation term of a PEFT method is added to the training loss only, not to the evaluation loss.
    """

    extended = counting_tokens(showing_batches(surviving(trainer_class)))

    class RepeatableTrainer(ending_in_time(saving_in_parts(extended))):  # type: ignore[misc, unused-ignore]
        """Implements `repeatable`; see `sampler_class`, and `regularization` of a method."""

        own_optimizer = None
        regularization: Callable[[Any], Tensor | None] | None = None
        row_parts = 1

        def get_train_dataloader(self) -> Any:
            """The loader of this process's rows, or of its part of rows that several processes share."""
            if self.row_parts == 1:
                return super().get_train_dataloader()
            with cutting_rows(self):
                return undealt(super().get_train_dataloader())

        def create_optimizer(self, model: Any = None) -> Any:
            """Create the method's own optimizer, or else the recipe's."""
            if self.own_optimizer is None:
                return super().create_optimizer(model)
            self.optimizer = self.own_optimizer()
            return self.optimizer

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            sampler = super()._get_train_sampler(train_dataset)
            if self.args.train_sampling_strategy != "group_by_length":
                return sampler
            # Group by the whole batch, so that the order of rows does not depend on the number of processes.
            size = sampler.batch_size * self.args.world_size // self.row_parts
            repeated = sampler_class()(size, lengths=sampler.lengths)
            repeated.seed = self.args.seed
            return repeated

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            """The loss of the rows, plus the method's regularisation term in a training step."""
            found = super().compute_loss(model, inputs, return_outputs, **kwargs)
            if return_outputs or not model.training or self.regularization is None:
                return found
            if (term := self.regularization(self.accelerator.unwrap_model(model))) is None:
                return found
            # The loss of the rows is divided by their number in the whole batch, so that micro-batches add up.
            adds_up = kwargs.get("num_items_in_batch") is not None or getattr(self, "loss_is_scaled_for_ga", False)
            return found + term / (self.current_gradient_accumulation_steps if adds_up else 1)

    return RepeatableTrainer
