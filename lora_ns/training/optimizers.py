"""Optimizers that a method brings, and leaving a training behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_ns.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer


def choose_optimizer(trainer: Trainer, recipe: Recipe) -> None:
    """Give the trainer an optimizer of the method's own, once nothing else takes the place of what is trained."""
    recipe.peft.choose_optimizer(trainer)


def leave_training(trainer: Trainer) -> None:
    """Schedule-free optimizers have other weights in training than those that are to be evaluated and saved."""
    optimizer: Any = trainer.optimizer
    if callable(getattr(optimizer, "eval", None)):
        optimizer.eval()
