"""Translation of recipe and plan into the arguments of the upstream trainers.

Pure functions; a test compares the names with the fields of the installed versions.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from lora_ns.objectives import LabelObjective
from lora_ns.plan.plan import Plan
from lora_ns.recipe.best_metric import best_metric, is_higher_better
from lora_ns.recipe.distributed import DeepSpeed, Fsdp, Processes
from lora_ns.recipe.recipe import Recipe


def training_arguments(recipe: Recipe, plan: Plan, checkpoints: Path) -> dict[str, Any]:
    """Arguments of `transformers.TrainingArguments`, for a plan whose number of steps is known."""
    training = recipe.training
    evaluates = bool(plan.eval_rows.value)
    return {
        "output_dir": str(checkpoints),
        "max_steps": plan.max_steps.value,
        "per_device_train_batch_size": plan.per_device_train_batch_size.value,
        "per_device_eval_batch_size": plan.per_device_eval_batch_size.value,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps.value,
        "gradient_checkpointing": plan.gradient_checkpointing.value,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if plan.gradient_checkpointing.value else None,
        "learning_rate": plan.learning_rate.value,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": plan.warmup_steps.value,
        "optim": training.optim,
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "max_grad_norm": training.max_grad_norm,
        "bf16": plan.dtype.value == "bfloat16" and not isinstance(recipe.distributed, DeepSpeed),
        "fp16": plan.dtype.value == "float16" and not isinstance(recipe.distributed, DeepSpeed),
        "use_cpu": plan.device.value == "cpu",
        "logging_strategy": "steps",
        "logging_steps": plan.logging_steps.value,
        "logging_first_step": True,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": plan.eval_steps.value if evaluates else None,
        "eval_on_start": evaluates and recipe.evaluation.before_training,
        "save_strategy": "steps",
        "save_steps": plan.save_steps.value,
        "save_total_limit": training.save_total_limit,
        "seed": training.seed,
        "data_seed": training.seed,
        "train_sampling_strategy": "group_by_length" if _groups_by_length(recipe) else "random",
        "length_column_name": "length",
        "dataloader_num_workers": training.dataloader_num_workers,
        "neftune_noise_alpha": recipe.objective.noise or None,
        "report_to": "none",  # trackers have a process of their own
        "project": recipe.tracking.project or "lorans",
        "run_name": recipe.tracking.run_name or recipe.task_name,
        "disable_tqdm": True,
        "include_num_input_tokens_seen": "non_padding",
        "label_names": ["labels"],
        "logging_nan_inf_filter": False,  # it would wait for the device in each step, see `showing_batches`
        "prediction_loss_only": not isinstance(recipe.objective, LabelObjective),
        "accelerator_config": {
            # From pinned memory, a batch is copied while the device computes.
            "non_blocking": plan.device.value == "cuda",
            # The batches of a stream differ in length, so each process collates its own.
            **({"dispatch_batches": False} if recipe.dataset.streaming else {}),
        },
        **_strategy(recipe, plan),
        **_best(recipe),
        "full_determinism": False,  # `deterministic` sets it, and takes it back
        **training.extra,
    }


def _best(recipe: Recipe) -> dict[str, Any]:
    """Arguments for the best checkpoint, if transformers loads it in the end, see `loads_a_checkpoint`."""
    name = best_metric(recipe)
    if name is None or not loads_a_checkpoint(recipe):
        return {"load_best_model_at_end": False, "metric_for_best_model": None}
    return {
        "load_best_model_at_end": True,
        "metric_for_best_model": name,
        "greater_is_better": is_higher_better(recipe, name),
    }


def loads_a_checkpoint(recipe: Recipe) -> bool:
    """True if the best weights come from a checkpoint in the end.

    Those in `best` are whole, and fit the original base. A model with sharded weights, or on a base from which the
    initial adapter was subtracted, cannot take them back.
    """
    return recipe.training.load_best_model_at_end and (recipe.distributed.shards or recipe.peft.moves_base)


def _strategy(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """Arguments of the distributed strategy; the number of processes comes from the launcher."""
    strategy = recipe.distributed
    found: dict[str, Any] = {
        "ddp_backend": None,
        "ddp_timeout": strategy.timeout
        if isinstance(strategy, Processes)
        else Processes.model_fields["timeout"].default,
        "deepspeed": copy.deepcopy(plan.deepspeed),  # transformers and accelerate write into it
        "fsdp": None,
        "fsdp_config": None,
        "save_on_each_node": isinstance(strategy, Processes) and strategy.num_nodes > 1,
    }
    if not isinstance(strategy, Fsdp):
        return found
    return {
        **found,
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "reshard_after_forward": strategy.reshard_after_forward,
            "cpu_offload": strategy.cpu_offload,
            "state_dict_type": "FULL_STATE_DICT",
        },
    }


def trainer_arguments(recipe: Recipe, plan: Plan, checkpoints: Path) -> dict[str, Any]:
    """All arguments of the objective's `config_class`."""
    return {**training_arguments(recipe, plan, checkpoints), **recipe.objective.arguments(recipe.distributed.row_parts)}


def _groups_by_length(recipe: Recipe) -> bool:
    objective = recipe.objective
    can_group = not (objective.packs or objective.compares_rows or objective.generates or recipe.dataset.streaming)
    return recipe.training.group_by_length and can_group
