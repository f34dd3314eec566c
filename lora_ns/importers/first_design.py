"""Importer for lorans's first design: YAML recipes with today's tables, in which some keys had other names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lora_ns.importers.base import Importer, Step
from lora_ns.importers.draft import Draft
from lora_ns.importers.source import is_blank
from lora_ns.importers.values import flag, names, number, plain, text, whole

_TABLES = (
    *("model", "quantization", "peft", "dataset", "training", "distributed", "sft", "classification", "generation"),
    *("evaluation", "tracking"),
)


_RENAMED: Mapping[str, str] = {
    "model.torch_dtype": "model.dtype",
    "model.base_model": "model.name_or_path",
    "peft.r": "peft.lora_r",
    "peft.lora_rank": "peft.lora_r",
    "peft.alpha": "peft.lora_alpha",
    "peft.dropout": "peft.lora_dropout",
    "dataset.dataset_name": "dataset.name",
    "dataset.dataset_config": "dataset.subset",
    "dataset.config_name": "dataset.subset",
    "dataset.train_file": "dataset.path",
    "dataset.train_path": "dataset.path",
    "dataset.validation_file": "dataset.eval_path",
    "dataset.eval_file": "dataset.eval_path",
    "dataset.validation_split": "dataset.eval_split",
    "dataset.max_train_samples": "dataset.max_samples",
    "training.epochs": "training.num_train_epochs",
    "training.num_epochs": "training.num_train_epochs",
    "training.lr": "training.learning_rate",
    "training.lr_scheduler": "training.lr_scheduler_type",
    "training.optimizer": "training.optim",
    "training.report_to": "tracking.report_to",
    "training.run_name": "tracking.run_name",
    "training.max_seq_length": "sft.max_seq_length",
    "training.packing": "sft.packing",
    "sft.max_length": "sft.max_seq_length",
    "sft.dataset_text_field": "dataset.columns.text",
}
"""Present names of keys by their old names."""


def _dtype_name(value: Any) -> str:
    name = text(value).removeprefix("torch.")
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(name, name)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("training.learning_rate", "training.weight_decay", "training.warmup_ratio", "training.max_grad_norm"), number
    ),
    **dict.fromkeys(("training.num_train_epochs", "peft.lora_alpha", "peft.lora_dropout"), number),
    **dict.fromkeys(("peft.lora_r", "sft.max_seq_length", "training.seed", "training.max_steps"), whole),
    **dict.fromkeys(("sft.packing", "model.trust_remote_code", "peft.use_dora", "peft.use_rslora"), flag),
    "tracking.report_to": names,
    "model.dtype": _dtype_name,
}
"""Readers of values that YAML may parse as strings, such as `2e-4`. The recipe's own checks cover other keys."""


_NO_MEANING: Mapping[str, str] = {
    "training.fp16": "set `model.dtype` instead",
    "training.bf16": "set `model.dtype` instead",
    "training.do_train": "it is what `lorans train` does",
    "training.do_eval": "lorans evaluates if there are evaluation rows",
    "training.overwrite_output_dir": "`lorans train --overwrite` replaces a run",
    "training.eval_strategy": "lorans evaluates once per epoch, or every `eval_steps` steps",
    "training.evaluation_strategy": "lorans evaluates once per epoch, or every `eval_steps` steps",
    "training.save_strategy": "lorans saves once per epoch, or every `save_steps` steps",
    "training.remove_unused_columns": "lorans ignores columns that the model does not use",
}


def _move(draft: Draft) -> None:
    """Write each key under its present name."""
    for key in ("task_name", "task_type"):
        draft.put(key, draft.text(key), key)
    draft.recipe.setdefault("task_name", "task")
    draft.recipe.setdefault("task_type", "CAUSAL_LM")
    _quantization(draft)
    _dtype(draft)
    for table in _TABLES:
        value = draft.get(table)
        if value is not None and not isinstance(value, dict):
            draft.refuse(table, "not a table of keys", "write its keys below it, indented", fatal=True)
            continue
        for name in value or {}:
            _key(draft, f"{table}.{name}")
    draft.note("missing keys get lorans's present defaults; `lorans plan` shows them")


def _key(draft: Draft, key: str) -> None:
    if not draft.has(key) or draft.is_accounted(key):
        return
    if key in _NO_MEANING:
        draft.unused(key, _NO_MEANING[key])
        return
    recipe = _RENAMED.get(key, key)
    said = "under its present name" if recipe != key else ""
    if recipe in draft.recipe:
        draft.refuse(key, f"`{recipe}` is also set", "remove one of them")
        return
    value = draft.read(key, _READERS.get(recipe, plain))
    if recipe in ("dataset.path", "dataset.eval_path", "model.name_or_path"):
        draft.path(recipe, value, key)
        draft.amend(key, said)
    elif isinstance(value, dict) and not _is_table_of_recipe(recipe):
        draft.put(recipe, {name: part for name, part in value.items() if not is_blank(part)}, key, said=said)
    else:
        draft.put(recipe, value, key, said=said)


def _is_table_of_recipe(key: str) -> bool:
    return key in ("training.extra", "peft.extra")


def _quantization(draft: Draft) -> None:
    """Translate `load_in_4bit` and `load_in_8bit`, which are now values of `quantization.method`."""
    for table in ("model", "quantization", "peft"):
        for name, method in (("load_in_4bit", "bnb-4bit"), ("load_in_8bit", "bnb-8bit")):
            key = f"{table}.{name}"
            if draft.has(key) and draft.flag(key):
                draft.put("quantization.method", method, key, said="now a quantisation method")
            elif draft.has(key) and not draft.is_refused(key):
                draft.same(key, "the base keeps its own dtype unless `quantization.method` is set")
    key = "quantization.bnb_4bit_compute_dtype"
    if draft.has(key):
        draft.unused(key, "lorans uses `model.dtype` for computation")


def _dtype(draft: Draft) -> None:
    """Translate `training.bf16` and `training.fp16`, unless the model names its dtype."""
    if draft.has("model.dtype") or draft.has("model.torch_dtype"):
        return
    for name, kind in (("training.bf16", "bfloat16"), ("training.fp16", "float16")):
        if draft.has(name) and draft.flag(name):
            draft.put("model.dtype", kind, name, said="under its present name")
            return


FIRST_DESIGN = Importer(
    name="lorans",
    signs=("task_name", "task_type", "peft", "sft", "classification"),
    rules={},
    steps=(Step(_move, ("task_name", "task_type", *_TABLES)),),
    looks=lambda source: isinstance(source.get("model"), dict) and source.has("training"),
)
