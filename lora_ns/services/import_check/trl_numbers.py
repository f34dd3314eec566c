"""The effective numbers of a TRL configuration, with the defaults of `SFTConfig`, `ModelConfig` and transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError
from lora_ns.importers.source import Source
from lora_ns.importers.values import flag, names, number, whole
from lora_ns.model.files import find_base
from lora_ns.services.import_check.reader import Numbers, Rate, value_of


def trl_numbers(source: Source, gpus: int, rows: int | None) -> Numbers:
    """Return the effective settings of a TRL configuration.

    Args:
        source: the configuration.
        gpus: number of GPUs.
        rows: rows of all datasets, if known.
    """
    rank, alpha = _number(source, "lora_r", 16), _number(source, "lora_alpha", 32)
    packs = _flag(source, "packing")
    kept = None if rows is None else rows - _held_out(source, rows)
    steps = _steps(source, gpus, None if packs else kept)
    warmup = _warmup(source, steps)
    peak, shape = _number(source, "learning_rate", 2e-5), str(source.get("lr_scheduler_type") or "linear")
    per_device, accumulation = _batch(source)
    limit = longest_row(source)
    loss = _loss(source)
    return Numbers(
        {
            "rank": rank,
            "alpha": alpha,
            "scaling": alpha / (math.sqrt(rank) if _flag(source, "use_rslora") else rank) if rank > 0 else None,
            "dropout": _number(source, "lora_dropout", 0.05),
            "target modules": _adapted(source),
            "modules to save": sorted(value_of(source, "lora_modules_to_save", names, [])),
            "layers": "all",
            "learning rate": peak,
            "schedule": shape,
            "warm-up steps": warmup,
            "steps": steps,
            "epochs": None if _number(source, "max_steps", -1) > 0 else _number(source, "num_train_epochs", 3),
            "rows": kept,
            "global batch size": per_device * accumulation * gpus,
            "max length": "no limit" if limit is None else limit,
            "longer rows": longer_rows(source),
            "packing": packs,
            "precision": _precision(source),
            "quantization": _stored(source),
            "optimizer": str(source.get("optim") or "adamw_torch_fused"),
            "weight decay": _number(source, "weight_decay", 0.0),
            "gradient clipping": _number(source, "max_grad_norm", 1.0),
            **({"loss on": loss} if loss else {}),
        },
        Rate(peak, shape, warmup, steps, source.get("lr_scheduler_kwargs")),
    )


WHY: Mapping[str, str] = {
    "target modules": "TRL adapts the layers that PEFT chooses for such a base if `lora_target_modules` is absent",
    "warm-up steps": "lorans keeps at least one step after the warm-up",
}
"""Reasons for differences that follow from how the two count."""


def longest_row(source: Source) -> int | None:
    """Return the tokens of the longest row; None if rows may be of any length."""
    key = next((key for key in ("max_length", "max_seq_length") if key in source.values), "max_length")
    if source.values.get(key, "") is None:
        return None
    return int(value_of(source, key, whole, 1024))


def longer_rows(source: Source) -> str:
    """Return what becomes of longer rows, in the words of `sft.on_overflow` as far as it has them."""
    if not _flag(source, "packing"):
        is_end = source.get("truncation_mode") == "keep_end"
        return "cut at the beginning" if is_end else "truncate"
    strategy = source.get("packing_strategy") or "bfd"
    if strategy in ("bfd_split", "bfd-requeue"):
        return "split"
    return "cut anywhere" if strategy == "wrapped" else "truncate"


def _number(source: Source, key: str, default: float | None = None) -> Any:
    return value_of(source, key, number, default)


def _flag(source: Source, key: str) -> bool:
    return bool(value_of(source, key, flag, False))


def _held_out(source: Source, rows: int) -> int:
    """Return the rows that are set aside: of a share, rounded up."""
    key = "test_split_size" if source.has("datasets") else "dataset_mixture.test_split_size"
    share: float = _number(source, key, 0)
    return math.ceil(share * rows) if 0 < share < 1 else int(share)


def _batch(source: Source) -> tuple[int, int]:
    """Return the rows of a device, and the micro-batches of a step."""
    rows = max(1, int(_number(source, "per_device_train_batch_size", 8)))
    return rows, max(1, int(_number(source, "gradient_accumulation_steps", 1)))


def _steps(source: Source, gpus: int, rows: int | None) -> int | None:
    most = int(_number(source, "max_steps", -1))
    if most > 0 or rows is None:
        return most if most > 0 else None
    per_device, accumulation = _batch(source)
    batches = rows / (per_device * gpus)
    counted = math.floor(batches) if _flag(source, "dataloader_drop_last") else math.ceil(batches)
    epochs: float = _number(source, "num_train_epochs", 3)
    return math.ceil(epochs * max(1, math.ceil(counted / accumulation)))


def _warmup(source: Source, steps: int | None) -> int | None:
    """Return the steps of the warm-up; below 1, `warmup_steps` is a share, as `warmup_ratio` was."""
    asked: float = _number(source, "warmup_steps", 0)
    share: float = asked or _number(source, "warmup_ratio", 0)
    if asked >= 1 or not share:
        return int(asked)
    return None if steps is None else math.ceil(share * steps)


def _adapted(source: Source) -> Any:
    """Return the adapted layers: those that are named, or PEFT's for the family of the base; None if it is not here."""
    named = value_of(source, "lora_target_modules", names, [])
    if named:
        return "all-linear" if named == ["all-linear"] else sorted(named)
    name, revision = str(source.get("model_name_or_path")), str(source.get("model_revision") or "main")
    try:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

        base = find_base(name, revision, [Path.cwd()], download=False)
        layers = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(base.facts.model_type) if base else None
    except (ImportError, LoransError):
        return None
    return layers if layers is None or isinstance(layers, str) else sorted(layers)


def _precision(source: Source) -> str:
    """Return the type of the products. bfloat16 by default, which lorans also takes if the device has it."""
    stored = str(source.get("dtype") or source.get("torch_dtype") or "float32").removeprefix("torch.")
    if stored in ("bfloat16", "float16"):
        return stored
    if _flag(source, "fp16"):
        return "float16"
    half = value_of(source, "bf16", flag, None)
    return "auto" if half is None else "bfloat16" if half else stored


def _stored(source: Source) -> str:
    bits = next((bits for bits in (4, 8) if _flag(source, f"load_in_{bits}bit")), None)
    return f"bnb-{bits}bit" if bits else "none"


def _loss(source: Source) -> str:
    """Return the learned part; nothing if it follows from the columns of the rows, which the file does not name."""
    if _flag(source, "assistant_only_loss") or _flag(source, "completion_only_loss"):
        return "answers"
    if value_of(source, "completion_only_loss", flag, None) is False:
        return "every token"
    key = "datasets" if source.has("datasets") else "dataset_mixture.datasets"
    entries = source.get(key)
    count = len(entries) if isinstance(entries, list) else 0
    columns = [value_of(source, f"{key}.{number}.columns", names, []) for number in range(count)]
    if not columns or not all(columns):
        return ""
    return "answers" if any("completion" in one for one in columns) else "every token"
