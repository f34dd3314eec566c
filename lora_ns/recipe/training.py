"""`[training]`: steps, batch, learning rate, saving, by their transformers names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lora_ns.table import (
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
    """How the run goes. The global batch is what you choose; how it is cut up is computed from the memory."""

    output_dir: Name
    """The run directory, relative to the current folder."""
    num_train_epochs: PositiveFloat = 1.0
    """Passes over the training rows; ignored with `max_steps`."""
    max_steps: PositiveInt | None = None
    """Optimizer steps, instead of epochs."""
    per_device_train_batch_size: Literal["auto"] | PositiveInt = "auto"
    """Rows that go through the model at once; `auto` takes the most that fit and divide the global batch."""
    per_device_eval_batch_size: Literal["auto"] | PositiveInt = "auto"
    """Rows evaluated at once; `auto` is twice the training batch."""
    global_batch_size: PositiveInt | None = None
    """Rows in one optimizer step, over all devices; 16, or the next multiple of the micro-batch below it, if absent."""
    gradient_accumulation_steps: PositiveInt | None = None
    """Micro-batches in one optimizer step; instead of `global_batch_size`."""
    learning_rate: PositiveFloat | None = None
    """Peak learning rate; if absent, the usual one for the method, the task and the width of the base."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = (
        "cosine"
    )
    """Course of the learning rate after the warm-up."""
    warmup_ratio: Fraction = 0.03
    """Share of the steps over which the learning rate rises."""
    warmup_steps: NonNegativeInt | None = None
    """Steps over which the learning rate rises, instead of `warmup_ratio`."""
    optim: Name = "adamw_torch"
    """Optimizer, by its transformers name; `paged_adamw_8bit` keeps 2 bytes for each trained number instead of 8."""
    weight_decay: NonNegativeFloat = 0.0
    """Decay of the trained weights."""
    adam_beta1: Fraction = 0.9
    """Decay of the mean, of optimizers that are called after Adam or Lion."""
    adam_beta2: Fraction = 0.999
    """Decay of the variance, of the same."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations to save memory; `auto` does so only if the batch would not fit otherwise."""
    group_by_length: bool = True
    """Batch rows of like length: less padding, the same loss."""
    dataloader_num_workers: NonNegativeInt = 0
    """Processes that prepare batches."""
    logging_steps: PositiveInt | None = None
    """Steps between two rows of `metrics.jsonl`; about a hundred rows a run if absent."""
    eval_steps: PositiveInt | None = None
    """Steps between two evaluations; once an epoch if absent."""
    save_steps: PositiveInt | None = None
    """Steps between two checkpoints; once an epoch if absent."""
    save_total_limit: PositiveInt = 2
    """Checkpoints kept."""
    seed: Seed = 42
    """Seed of adapter, order and dropout."""
    extra: Extra = Field(default={})
    """Further fields of `transformers.TrainingArguments`; checked against the installed version."""
