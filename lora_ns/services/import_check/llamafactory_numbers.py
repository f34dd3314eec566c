"""The effective numbers of a LLaMA-Factory configuration, with the defaults of its arguments and of transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, names, number
from lora_ns.services.import_check.reader import Numbers, Rate, value_of


def llamafactory_numbers(source: Source, gpus: int, rows: int | None) -> Numbers:
    """Return what LLaMA-Factory trains with.

    Args:
        source: the configuration.
        gpus: number of GPUs.
        rows: rows of all datasets, if known.
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
            "adapted": "all-linear" if targets == ["all"] else sorted(targets),
            "trained whole": sorted(value_of(source, "additional_target", names, [])),
            "layers": "all",
            "learning rate": peak,
            "schedule": shape,
            "warm-up steps": warmup,
            "steps": steps,
            "epochs": None if _number(source, "max_steps", -1) > 0 else _number(source, "num_train_epochs", 3),
            "rows": kept,
            "rows per step": per_device * accumulation * gpus,
            "longest row": _number(source, "cutoff_len", 2048),
            "longer rows": "cut on both sides",
            "packing": packs,
            "precision": _precision(source),
            "base stored as": f"bnb-{bits}bit" if bits else "none",
            "optimizer": str(source.get("optim") or "adamw_torch"),
            "weight decay": _number(source, "weight_decay", 0.0),
            "gradient clipping": _number(source, "max_grad_norm", 1.0),
            "loss on": _loss(source),
        },
        Rate(peak, shape, warmup, steps),
    )


WHY: Mapping[str, str] = {
    "longer rows": "LLaMA-Factory cuts the question and the answer in proportion, which lorans cannot: raise "
    "`sft.max_seq_length`, or remove longer rows",
}
"""Reasons for differences that follow from how the two count."""


def _number(source: Source, key: str, default: float | None = None) -> Any:
    return value_of(source, key, number, default)


def _flag(source: Source, key: str) -> bool:
    return bool(value_of(source, key, flag, False))


def _batch(source: Source) -> tuple[int, int]:
    """Return the rows of a device, and the micro-batches of a step."""
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
    """Return the steps of the warm-up; below 1, `warmup_steps` is a share."""
    asked: float = _number(source, "warmup_steps", 0)
    share: float = asked or _number(source, "warmup_ratio", 0)
    if asked >= 1 or not share:
        return int(asked)
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
