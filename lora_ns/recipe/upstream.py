"""Fields of upstream configuration classes, read from their source so that nothing heavy is imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

SET_BY_PLAN = frozenset(
    {
        "accelerator_config",
        "adam_beta1",
        "adam_beta2",
        "bf16",
        "data_seed",
        "dataloader_num_workers",
        "ddp_backend",
        "ddp_timeout",
        "deepspeed",
        "disable_tqdm",
        "eval_on_start",
        "eval_steps",
        "eval_strategy",
        "fp16",
        "fsdp",
        "fsdp_config",
        "full_determinism",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "include_num_input_tokens_seen",
        "label_names",
        "learning_rate",
        "length_column_name",
        "logging_first_step",
        "logging_nan_inf_filter",
        "logging_steps",
        "logging_strategy",
        "load_best_model_at_end",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "metric_for_best_model",
        "neftune_noise_alpha",
        "optim",
        "output_dir",
        "per_device_eval_batch_size",
        "per_device_train_batch_size",
        "prediction_loss_only",
        "project",
        "report_to",
        "run_name",
        "save_on_each_node",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "seed",
        "train_sampling_strategy",
        "use_cpu",
        "warmup_steps",
        "weight_decay",
    }
)
"""Fields of `TrainingArguments` that recipe keys or the plan set; not allowed in `[training.extra]`."""


_METRICS = "metrics are computed over all evaluation rows, and use nothing else"


_RESUMES = "a resumed run continues exactly as if it had not been interrupted"


_CACHE = "training steps generate nothing"


_SCRIPTS = "only transformers' example scripts read it"


REFUSED_ARGUMENTS: Mapping[str, str] = {
    "activation_checkpointing": "`training.gradient_checkpointing` sets it",
    "activation_checkpointing_kwargs": "`training.gradient_checkpointing` sets it",
    "auto_find_batch_size": "the plan sets the batch size, and shows it",
    "batch_eval_metrics": _METRICS,
    "bf16_full_eval": "evaluation uses the precision of the training, `model.dtype`",
    "debug": "it prints to standard output, and stops at masked attention scores",
    "do_eval": _SCRIPTS,
    "do_predict": _SCRIPTS,
    "do_train": _SCRIPTS,
    "enable_jit_checkpoint": "a signal already stops a run after saving its step",
    "eval_do_concat_batches": _METRICS,
    "eval_use_gather_object": _METRICS,
    "fp16_full_eval": "evaluation uses the precision of the training, `model.dtype`",
    "ignore_data_skip": _RESUMES,
    "include_for_metrics": _METRICS,
    "liger_kernel_config": "it replaces layers that lorans checks the adapter on",
    "local_rank": "the launcher sets it",
    "num_train_epochs": "`training.num_train_epochs` sets it",
    "optim_target_modules": "no optimizer that trains an adapter reads it",
    "parallelism_config": "`[distributed]` sets the parallelism",
    "remove_unused_columns": "rows have columns that the model does not accept",
    "restore_callback_states_from_checkpoint": _RESUMES,
    "resume_from_checkpoint": "`lorans train --resume` finds the checkpoint",
    "use_cache": _CACHE,
    "use_liger_kernel": "it replaces layers that lorans checks the adapter on",
}
"""Fields of `TrainingArguments` that would have no effect or break a guarantee of lorans, each with the reason."""


SET_BY_ENGINE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
        "task_type",
        "total_step",
    }
)
"""Fields of PEFT configurations that follow from the base and the run; not allowed in `[peft.extra]`."""


@functools.cache
def dataclass_fields(package: str, file: str, name: str) -> frozenset[str] | None:
    """Return the field names of a dataclass in an installed package, None if the package is not installed.

    Args:
        package: import name, such as `transformers`.
        file: path inside the package, such as `training_args.py`.
        name: the class; fields of its base classes are not included.
    """
    body = _class_body(package, file, name)
    if body is None:
        return None
    fields = (line.target for line in body if isinstance(line, ast.AnnAssign))
    return frozenset(target.id for target in fields if isinstance(target, ast.Name))


def _class_body(package: str, file: str, name: str) -> list[ast.stmt] | None:
    """Return the statements of a class body, empty if the file has no such class, None without the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    return next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), [])


def supports_sdpa(model_type: str) -> bool | None:
    """Return whether a model family supports SDPA in transformers; None if unknown."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "models" / model_type.replace("-", "_")
    sources = [file.read_text(encoding="utf-8") for file in folder.glob("modeling_*.py")]
    return any("_supports_sdpa = True" in source for source in sources) if sources else None


def training_argument_fields() -> frozenset[str] | None:
    """Return the fields of `transformers.TrainingArguments`, None if it is not installed."""
    return dataclass_fields("transformers", "training_args.py", "TrainingArguments")


def peft_config_fields(file: str, name: str, parents: Iterable[tuple[str, str]] = ()) -> frozenset[str] | None:
    """Return the fields of a PEFT configuration class with its base classes; `parents` are its additional ones."""
    own = dataclass_fields("peft", file, name)
    if own is None:
        return None
    common = [("config.py", base) for base in ("PeftConfigMixin", "PeftConfig", "PromptLearningConfig")]
    shared = (dataclass_fields("peft", *base) for base in (*common, *parents))
    return own.union(*(fields or frozenset() for fields in shared))
