"""Names of the fields of upstream configuration classes, read from their source so that nothing heavy is imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

SET_BY_PLAN = frozenset(
    {
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
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "include_num_input_tokens_seen",
        "label_names",
        "learning_rate",
        "length_column_name",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
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
"""Fields of `TrainingArguments` that the recipe's own keys and the plan decide; `[training.extra]` may not."""


_METRICS = "the metrics here are over all evaluation rows, and read nothing else"


_RESUMES = "a run that is resumed goes on as if it had not been interrupted"


_CACHE = "nothing is generated in a training step"


_SCRIPTS = "nothing but transformers' example scripts reads it"


REFUSED_ARGUMENTS: Mapping[str, str] = {
    "activation_checkpointing": "`training.gradient_checkpointing` decides it",
    "activation_checkpointing_kwargs": "`training.gradient_checkpointing` decides it",
    "accelerator_config": "the plan decides how rows are dealt to processes and batches added up",
    "auto_find_batch_size": "the plan decides how large a batch is, and says so",
    "batch_eval_metrics": _METRICS,
    "bf16_full_eval": "evaluations are in the precision that is trained in, `model.dtype`",
    "debug": "it writes to standard output, and ends at what attention masks with",
    "do_eval": _SCRIPTS,
    "do_predict": _SCRIPTS,
    "do_train": _SCRIPTS,
    "enable_jit_checkpoint": "a signal already ends a run after its step is saved",
    "eval_do_concat_batches": _METRICS,
    "eval_use_gather_object": _METRICS,
    "fp16_full_eval": "evaluations are in the precision that is trained in, `model.dtype`",
    "ignore_data_skip": _RESUMES,
    "include_for_metrics": _METRICS,
    "liger_kernel_config": "it replaces layers that the adapter is checked on",
    "local_rank": "the launcher decides it",
    "num_train_epochs": "`training.num_train_epochs` decides it",
    "optim_target_modules": "no optimizer that trains an adapter reads it",
    "parallelism_config": "`[distributed]` decides what is divided among processes",
    "remove_unused_columns": "rows have columns that the model does not take",
    "restore_callback_states_from_checkpoint": _RESUMES,
    "resume_from_checkpoint": "`lorans train --resume` finds the checkpoint",
    "use_cache": _CACHE,
    "use_liger_kernel": "it replaces layers that the adapter is checked on",
}
"""Fields of `TrainingArguments` that would have no effect here, or break what is promised; each with the reason."""


NEEDS: Mapping[str, tuple[str, ...]] = {"greater_is_better": ("metric_for_best_model", "load_best_model_at_end")}
"""Fields that have an effect only beside one of others."""


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
"""Fields of PEFT configurations that follow from the base and the run; `[peft.extra]` may not name them."""


@functools.cache
def dataclass_fields(package: str, file: str, name: str) -> frozenset[str] | None:
    """Field names of a dataclass in an installed package; None if the package is not installed.

    Args:
        package: import name, such as `transformers`.
        file: path inside the package, such as `training_args.py`.
        name: the class; only the fields in its own body are found.
    """
    body = _class_body(package, file, name)
    if body is None:
        return None
    fields = (line.target for line in body if isinstance(line, ast.AnnAssign))
    return frozenset(target.id for target in fields if isinstance(target, ast.Name))


def _class_body(package: str, file: str, name: str) -> list[ast.stmt] | None:
    """What stands in a class; nothing if the file has no such class, None if the package is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    return next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), [])


def supports_sdpa(model_type: str) -> bool | None:
    """Whether transformers computes a family's attention by PyTorch's fused kernel; None if it does not say."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "models" / model_type.replace("-", "_")
    sources = [file.read_text(encoding="utf-8") for file in folder.glob("modeling_*.py")]
    return any("_supports_sdpa = True" in source for source in sources) if sources else None


def training_argument_fields() -> frozenset[str] | None:
    """Fields of `transformers.TrainingArguments`."""
    return dataclass_fields("transformers", "training_args.py", "TrainingArguments")


def peft_config_fields(file: str, name: str, parents: Iterable[tuple[str, str]] = ()) -> frozenset[str] | None:
    """Fields of a PEFT configuration class, those of its base classes included; `parents` are some of its own."""
    own = dataclass_fields("peft", file, name)
    if own is None:
        return None
    common = [("config.py", base) for base in ("PeftConfigMixin", "PeftConfig", "PromptLearningConfig")]
    shared = (dataclass_fields("peft", *base) for base in (*common, *parents))
    return own.union(*(fields or frozenset() for fields in shared))
