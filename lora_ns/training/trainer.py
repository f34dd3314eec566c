"""The trainers: TRL's for text, transformers' for labels, each with the arguments that the plan decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.methods import AdaLora
from lora_ns.parallel.sharding import divided_layers
from lora_ns.plan.plan import Plan
from lora_ns.recipe.recipe import Recipe
from lora_ns.training.arguments import sft_arguments, training_arguments
from lora_ns.training.label_trainer import _classifier
from lora_ns.training.text_trainer import _causal
from lora_ns.training.wrapped import epoch_order, rank_allocation

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
