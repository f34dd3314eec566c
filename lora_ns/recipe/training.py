"""`[training]`: steps, batch size, learning rate and checkpoints, by their transformers names."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from lora_ns.table import (
    DURATION,
    Extra,
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Table,
)


class Training(Table):
    """Training settings. You choose the global batch; lorans divides it into micro-batches that fit into memory."""

    output_dir: Name
    """Run directory, relative to the current folder."""
    num_train_epochs: PositiveFloat = 1.0
    """Number of epochs; not used with `max_steps`."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps, instead of epochs."""
    per_device_train_batch_size: Literal["auto"] | PositiveInt = "auto"
    """Micro-batch of each device, in rows; `auto` is the largest that fits and divides the global batch."""
    per_device_eval_batch_size: Literal["auto"] | PositiveInt = "auto"
    """Evaluation batch of each device, in rows; `auto` is twice the training micro-batch."""
    global_batch_size: PositiveInt | None = None
    """Rows per optimizer step, over all devices. Default: 16, rounded down to a multiple of the micro-batch."""
    gradient_accumulation_steps: PositiveInt | None = None
    """Micro-batches per optimizer step, instead of `global_batch_size`."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate. Default: the usual one for the method, the task and the width of the base."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = (
        "cosine"
    )
    """Learning rate schedule after the warm-up."""
    warmup_ratio: Fraction = 0.03
    """Fraction of the steps used to warm up the learning rate."""
    warmup_steps: NonNegativeInt | None = None
    """Number of warm-up steps, instead of `warmup_ratio`."""
    optim: Name = "adamw_torch_fused"
    """Optimizer, by its transformers name; `paged_adamw_8bit` stores 2 bytes per trained parameter instead of 8."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of the trained parameters."""
    adam_beta1: Fraction = 0.9
    """Decay rate of the gradient's mean, in optimizers named after Adam or Lion."""
    adam_beta2: Fraction = 0.999
    """Decay rate of the gradient's variance, in optimizers named after Adam or Lion."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Maximum gradient norm; larger gradients are clipped. 0 turns clipping off."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations to save memory; `auto` does so only if the batch would not fit otherwise."""
    group_by_length: bool = True
    """Batch rows of similar length: less padding, the same loss."""
    dataloader_num_workers: NonNegativeInt = 0
    """Number of worker processes that prepare batches."""
    logging_steps: PositiveInt | None = None
    """Steps between two rows of `metrics.jsonl`. Default: about 100 rows per run."""
    eval_steps: PositiveInt | None = None
    """Steps between two evaluations. Default: once per epoch."""
    save_steps: PositiveInt | None = None
    """Steps between two checkpoints. Default: once per epoch."""
    save_total_limit: PositiveInt = 2
    """Number of checkpoints to keep."""
    metric_for_best_model: Name | None = None
    """Metric by which the best adapter is kept in `best`, such as `loss`, `f1`, or `NAME.FIGURE` of a suite."""
    load_best_model_at_end: bool = False
    """End with the best adapter by `metric_for_best_model` (default: `loss`) instead of that of the last step."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after so many evaluations without an improvement beyond the noise of the metric on the evaluation rows."""
    early_stopping_threshold: NonNegativeFloat = 0.0
    """What an improvement must exceed, too, in the unit of the metric."""
    max_time: PositiveInt | Annotated[str, Field(pattern=DURATION)] | None = None
    """Time limit, such as `2h30m` or a number of seconds; the run then ends with a checkpoint and its adapter."""
    full_determinism: bool = False
    """Use deterministic algorithms only; slower, and an error if an operation has none."""
    seed: Seed = 42
    """Seed of the adapter's initialisation, the order of the rows and dropout."""
    extra: Extra = Field(default={})
    """Other fields of `transformers.TrainingArguments`, checked against the installed version."""

    def without_an_early_end(self) -> Training:
        """The same settings for a short trial, which neither chooses among evaluations nor ends early."""
        names = "metric_for_best_model load_best_model_at_end early_stopping_patience early_stopping_threshold max_time"
        extra = {key: value for key, value in self.extra.items() if key != "greater_is_better"}
        return self.model_copy(
            update={**{name: Training.model_fields[name].default for name in names.split()}, "extra": extra}
        )

    @property
    def max_seconds(self) -> int | None:
        """The time limit in seconds."""
        return seconds_of(self.max_time) if isinstance(self.max_time, str) else self.max_time


_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def seconds_of(duration: str) -> int:
    """Return the seconds of a length of time such as `2h30m`, which matches `DURATION`."""
    return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)([dhms])", duration))
