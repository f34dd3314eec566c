"""Optimizers of PEFT methods, and the switch from training to evaluation weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_ns.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer


def choose_optimizer(trainer: Trainer, recipe: Recipe) -> None:
    """Give the trainer the method's optimizer, once the trainable parameters are final."""
    recipe.peft.choose_optimizer(trainer)


def leave_training(trainer: Trainer) -> None:
    """Switch a schedule-free optimizer from its training weights to those that are evaluated and saved."""
    optimizer: Any = trainer.optimizer
    if callable(getattr(optimizer, "eval", None)):
        optimizer.eval()
