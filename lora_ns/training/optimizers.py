"""Optimizers that a method brings, and leaving a training behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_ns.methods import Lora
from lora_ns.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer


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
