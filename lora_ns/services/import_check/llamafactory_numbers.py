"""Effective settings of a LLaMA-Factory configuration, with the defaults of its arguments and of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, names, number
from lora_ns.services.import_check.reader import Numbers, Rate, value_of


def llamafactory_numbers(source: Source, gpus: int, rows: int | None) -> Numbers:
    """Return the settings that LLaMA-Factory trains with, including its defaults.

    Args:
        source: the configuration.
        gpus: number of GPUs.
        rows: number of rows of all datasets; None if unknown.
    """
    rank = _number(source, "lora_rank", 8)
    alpha = _number(source, "lora_alpha") or 2 * rank
    packs = _flag(source, "packing") or _flag(source, "neat_packing")
    held = _number(source, "val_size", 0)
    kept = None if rows is None else rows - (int(held) if held > 1 else math.ceil(held * rows))
    steps = _steps(source, gpus, None if packs else kept)
    warmup = _warmup(source, steps)
    peak, shape = _number(source, "learning_rate", 5e-5), str(source.get("lr_scheduler_type") or "linear")
    targets = value_of(source, "lora_target", names, ["all"])
    bits = source.get("quantization_bit")
    per_device, accumulation = _batch(source)
    return Numbers(
        {
            "rank": rank,
            "alpha": alpha,
            "scaling": alpha / (math.sqrt(rank) if _flag(source, "use_rslora") else rank),
            "dropout": _number(source, "lora_dropout", 0.0),
            "target modules": "all-linear" if targets == ["all"] else sorted(targets),
            "modules to save": sorted(value_of(source, "additional_target", names, [])),
            "layers": "all",
            "learning rate": peak,
            "schedule": shape,
            "warm-up steps": warmup,
            "steps": steps,
            "epochs": None if _number(source, "max_steps", -1) > 0 else _number(source, "num_train_epochs", 3),
            "rows": kept,
            "global batch size": per_device * accumulation * gpus,
            "max length": _number(source, "cutoff_len", 2048),
            "longer rows": "truncate both sides",
            "packing": packs,
            "precision": _precision(source),
            "quantization": f"bnb-{bits}bit" if bits else "none",
            "optimizer": str(source.get("optim") or "adamw_torch_fused"),
            "weight decay": _number(source, "weight_decay", 0.0),
            "gradient clipping": _number(source, "max_grad_norm", 1.0),
            "loss on": _loss(source),
        },
        Rate(peak, shape, warmup, steps, source.get("lr_scheduler_kwargs")),
    )


WHY: Mapping[str, str] = {
    "longer rows": "LLaMA-Factory truncates prompt and answer in proportion, which lorans does not support: raise "
    "`sft.max_seq_length`, or remove the longer rows",
}
"""Known reasons for a difference, by the name of the setting."""


def _number(source: Source, key: str, default: float | None = None) -> Any:
    return value_of(source, key, number, default)


def _flag(source: Source, key: str) -> bool:
    return bool(value_of(source, key, flag, False))


def _batch(source: Source) -> tuple[int, int]:
    """Return the per-device batch size and the gradient accumulation steps."""
    rows = max(1, int(_number(source, "per_device_train_batch_size", 8)))
    return rows, max(1, int(_number(source, "gradient_accumulation_steps", 1)))


def _steps(source: Source, gpus: int, rows: int | None) -> int | None:
    most = int(_number(source, "max_steps", -1))
    if most > 0 or rows is None:
        return most if most > 0 else None
    per_device, accumulation = _batch(source)
    per_epoch = math.ceil(math.ceil(rows / (per_device * gpus)) / accumulation)
    epochs: float = _number(source, "num_train_epochs", 3)
    return math.ceil(epochs * per_epoch)


def _warmup(source: Source, steps: int | None) -> int | None:
    """Return the number of warm-up steps. A value of `warmup_steps` below 1 is a fraction of all steps."""
    count: float = _number(source, "warmup_steps", 0)
    share: float = count or _number(source, "warmup_ratio", 0)
    if count >= 1 or not share:
        return int(count)
    return None if steps is None else math.ceil(share * steps)


def _precision(source: Source) -> str:
    for key, kind in (("bf16", "bfloat16"), ("pure_bf16", "bfloat16"), ("fp16", "float16")):
        if _flag(source, key):
            return kind
    return "auto"


def _loss(source: Source) -> str:
    if _flag(source, "train_on_prompt"):
        return "every token"
    return "the last answer" if _flag(source, "mask_history") else "answers"
