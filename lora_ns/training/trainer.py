"""Construction of the trainer: TRL's for text, transformers' for labels, with the arguments from the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import PlanError, Problem, first_line
from lora_ns.objectives import Objective
from lora_ns.parallel.sharding import divided_layers
from lora_ns.plan.fit import leaves_out_padding
from lora_ns.plan.plan import Plan
from lora_ns.recipe.recipe import Recipe
from lora_ns.training.arguments import trainer_arguments
from lora_ns.training.eval_loss import counted
from lora_ns.training.label_head import begin_at_mean
from lora_ns.training.scored_positions import scoring_positions_in_the_loss
from lora_ns.training.wrapped import epoch_order, repeatable

if TYPE_CHECKING:
    import datasets
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback


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
    rewards: Sequence[Any] = (),
    teacher: PreTrainedModel | PeftModel | None = None,
) -> Trainer:
    """The trainer of the recipe's task, ready to train."""
    shared = {"model": model, "train_dataset": data[0], "eval_dataset": data[1], "processing_class": tokenizer}
    shared |= {"reward_funcs": list(rewards)} if rewards else {}
    shared |= {} if teacher is None else {"teacher_model": teacher}
    arguments = trainer_arguments(recipe, plan, checkpoints)
    if arguments["fsdp"]:
        arguments["fsdp_config"]["transformer_layer_cls_to_wrap"] = divided_layers(model) or None
    trainer = _of_objective(recipe.objective, arguments, shared, labels)
    trainer.row_parts, trainer.regularization = recipe.distributed.row_parts, recipe.peft.regularization
    trainer.leaves_out_padding = leaves_out_padding(recipe, plan.device.value)
    trainer.args.eval_on_start = trainer.args.eval_on_start and evaluate_first
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    for callback in (*callbacks, epoch_order(), *recipe.peft.callbacks()):
        trainer.add_callback(callback)
    return trainer


def _of_objective(
    objective: Objective, arguments: dict[str, Any], shared: dict[str, Any], labels: Sequence[str]
) -> Any:
    """The objective's trainer. Raises `PlanError` if the library cannot train the model."""
    model, kind = shared["model"], objective.trainer_class(counted)
    if objective.next_token_loss:
        kind = scoring_positions_in_the_loss(kind)
    # Over a quantised base, TRL casts trainable parameters to bfloat16. Keep them in float32, as over any other base.
    trained = {name: value.data for name, value in model.named_parameters() if value.requires_grad}
    own = objective.trainer_kwargs(model, shared["processing_class"], labels)
    try:
        trainer = repeatable(kind)(args=objective.config_class()(**arguments), **shared, **own)
    except ValueError as error:  # such as the embeddings of a base that ties them to its head
        what = f"{objective.library} refuses it: {first_line(error)}"
        raise PlanError(Problem("", what, "choose another method", key="peft.method")) from error
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.data = trained[name]
    objective.complete(trainer, labels, shared["train_dataset"])
    if getattr(trainer, "problem_type", None) == "regression":
        begin_at_mean(model, shared["train_dataset"])
    return trainer
