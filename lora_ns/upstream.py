"""Names of the fields of upstream configuration classes, read from their source so that nothing heavy is imported."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable
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
