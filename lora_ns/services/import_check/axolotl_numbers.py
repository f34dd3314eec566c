"""Effective settings of an axolotl configuration, after its schema and `src/axolotl/core/builders/`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, names, number
from lora_ns.services.import_check.reader import Numbers, Rate, value_of


def axolotl_numbers(source: Source, gpus: int, rows: int | None) -> Numbers:
    """Return the settings that axolotl trains with, including its defaults.

    Args:
        source: the configuration.
        gpus: number of GPUs.
        rows: number of rows of all datasets; None if unknown.
    """
    rank, alpha = _number(source, "lora_r"), _number(source, "lora_alpha")
    batch = _batch(source) * gpus
    kept = None if rows is None else rows - _held_out(source, rows)
    packs = _flag(source, "sample_packing")
    epochs = _number(source, "num_epochs", 1)
    counted = None if packs or kept is None else math.ceil(kept * epochs / batch)
    most = int(_number(source, "max_steps", 0))
    steps = most if most > 0 else counted
    warmup = _warmup(source, min((known for known in (steps, counted) if known is not None), default=None))
    peak, shape = _number(source, "learning_rate"), _shape(source)
    is_all_linear = _flag(source, "lora_target_linear")
    return Numbers(
        {
            "rank": rank,
            "alpha": alpha,
            "scaling": _scaling(rank, alpha, _flag(source, "peft_use_rslora")),
            "dropout": _number(source, "lora_dropout", 0.0),
            "target modules": "all-linear" if is_all_linear else _list(source, "lora_target_modules"),
            "modules to save": _list(source, "lora_modules_to_save"),
            "layers": source.get("peft_layers_to_transform") or "all",
            "learning rate": peak,
            "schedule": shape,
            "warm-up steps": warmup,
            "steps": steps,
            "epochs": None if most > 0 else epochs,
            "rows": kept,
            "global batch size": batch,
            "max length": _number(source, "sequence_len", 512),
            "longer rows": _overflow(source),
            "packing": packs,
            "precision": _precision(source),
            "quantization": _quantization(source),
            "optimizer": str(source.get("optimizer") or "adamw_torch_fused"),
            "weight decay": _number(source, "weight_decay", 0.0),
            "gradient clipping": _number(source, "max_grad_norm", 1.0),
            "loss on": "every token" if _flag(source, "train_on_inputs") else "answers",
        },
        Rate(peak, shape, warmup, steps, source.get("lr_scheduler_kwargs")),
    )


WHY: Mapping[str, str] = {
    "steps": "axolotl rounds up the steps of all epochs together, lorans those of each epoch: write "
    "`training.max_steps = {theirs}`",
    "warm-up steps": "axolotl rounds the warm-up down, by default to at most 100 steps: write "
    "`training.warmup_steps = {theirs}`",
    "rows": "axolotl rounds the number of evaluation rows up, lorans rounds it to the nearest",
}
"""Known reasons for a difference, by the name of the setting."""


def _number(source: Source, key: str, default: float | None = None) -> Any:
    return value_of(source, key, number, default)


def _flag(source: Source, key: str) -> bool:
    return bool(value_of(source, key, flag, False))


def _list(source: Source, key: str) -> list[str]:
    return sorted(value_of(source, key, names, []))


def _batch(source: Source) -> int:
    """Return the rows per step and GPU. axolotl reads `batch_size` only without `gradient_accumulation_steps`."""
    rows = max(1, int(_number(source, "micro_batch_size", 1)))
    whole, accumulation = _number(source, "batch_size"), _number(source, "gradient_accumulation_steps")
    if whole is not None and accumulation is None:
        return max(1, int(whole) // rows) * rows
    return rows * max(1, int(accumulation or 1))


def _held_out(source: Source, rows: int) -> int:
    share = _number(source, "val_set_size", 0)
    return math.ceil(share * rows) if 0 < share < 1 else int(share)


def _shape(source: Source) -> str:
    least, shape = _number(source, "cosine_min_lr_ratio"), str(source.get("lr_scheduler") or "cosine")
    return f"{shape} down to {least:g} of the peak" if least and shape == "cosine" else shape


def _warmup(source: Source, steps: int | None) -> int | None:
    count: float | None
    share: float | None
    count, share = _number(source, "warmup_steps"), _number(source, "warmup_ratio")
    if count is not None and (count >= 1 or count == 0):
        return 2 if count == 1 else int(count)
    if steps is None:
        return None
    if count is not None:
        return math.ceil(count * steps)
    if share is None:
        return _beyond_one(min(int(0.03 * steps), 100))
    return _beyond_one(int(share * steps))


def _beyond_one(steps: int) -> int:
    return 2 if steps == 1 else steps


def _scaling(rank: float | None, alpha: float | None, is_stabilised: bool) -> float | None:
    if not rank or alpha is None:
        return None
    return alpha / (math.sqrt(rank) if is_stabilised else rank)


def _overflow(source: Source) -> str:
    kinds = [entry.get("type") for entry in source.get("datasets") or [] if isinstance(entry, dict)]
    if kinds and all(kind == "completion" for kind in kinds):
        return "split"
    strategy = str(source.get("excess_length_strategy") or "drop").lower()
    return {"raise": "error"}.get(strategy, strategy)


def _precision(source: Source) -> str:
    for key, kind in (("bf16", "bfloat16"), ("bfloat16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")):
        if source.get(key) in (True, "full"):
            return kind
    return "float32" if source.get("bf16") is False else "auto"


def _quantization(source: Source) -> str:
    if _flag(source, "gptq"):
        return "gptq"
    if source.get("adapter") == "qlora" or _flag(source, "load_in_4bit"):
        return "bnb-4bit"
    return "bnb-8bit" if _flag(source, "load_in_8bit") else "none"
