"""Translations that several tools share, with each tool's own names of the keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from lora_ns.files.reading import exists
from lora_ns.importers.draft import Draft

# Batches


def global_batch(
    draft: Draft, per_device: str, accumulation: str, *, per_device_default: int, accumulation_default: int = 1
) -> None:
    """Write the rows per optimizer step: per-device batch size x accumulation steps x `--gpus`.

    Args:
        draft: the translation.
        per_device: key with the batch size per device.
        accumulation: key with the gradient accumulation steps.
        per_device_default: the tool's default of the batch size per device.
        accumulation_default: the tool's default of the accumulation steps.
    """
    rows = draft.whole(per_device, per_device_default)
    steps = draft.whole(accumulation, accumulation_default)
    product = f"{rows} x {steps} x {draft.gpus} GPU{'s' if draft.gpus != 1 else ''}"
    draft.put("training.global_batch_size", rows * steps * draft.gpus, per_device, accumulation, said=product)
    for key in (per_device, accumulation):
        if draft.has(key) and not draft.is_accounted(key):
            what = "the other factor of the global batch size is invalid"
            draft.refuse(key, what, "correct it, or set `training.global_batch_size`")
    if draft.gpus == 1:
        draft.note(f"the global batch size is for one GPU ({product}); write `--gpus N` for N GPUs")


# Optimizers and learning rates

OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_apex_fused": "adamw_torch_fused",
    "adamw_hf": "adamw_torch",
    "paged_adamw": "paged_adamw_32bit",
}
"""Optimizers with other names in the recipe; the rest keep their names, which the recipe checks."""


SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
"""Values of `training.lr_scheduler_type`: transformers' names, which all tools use."""


def optimizer(draft: Draft, key: str, default: str) -> None:
    """Write `training.optim`; nearly all tools use the names of transformers."""
    name = draft.text(key, default)
    draft.put("training.optim", OPTIMIZERS.get(name, name), key, own="adamw_torch_fused")


def scheduler(draft: Draft, key: str, default: str) -> None:
    """Write `training.lr_scheduler_type`."""
    name = draft.text(key, default)
    if name in SCHEDULERS:
        draft.put("training.lr_scheduler_type", name, key, own="cosine")
    elif not draft.is_refused(key):
        draft.refuse(key, "lorans does not support this schedule", f"write one of: {', '.join(SCHEDULERS)}")


def warmup(
    draft: Draft, steps: str, ratio: str, default: float | None, *, takes_one: bool = False, zero_wins: bool = False
) -> None:
    """Write `training.warmup_steps` or `training.warmup_ratio`.

    Args:
        draft: the translation.
        steps: key with the number of steps, which takes precedence; a value below 1 is a fraction of the run.
        ratio: key with the fraction of the run.
        default: the tool's default fraction, which is written if both keys are missing.
        takes_one: True if the tool refuses two keys that ask for a warm-up.
        zero_wins: True if 0 steps take precedence too, False if they are the same as a missing key.
    """
    number, share = draft.number(steps), draft.number(ratio)
    if number is None or (number == 0 and share is not None and not zero_wins):
        if number is not None:
            draft.unused(steps, f"it is 0, so `{ratio}` applies")
        draft.put("training.warmup_ratio", default if share is None else share, ratio)
        return
    if 0 < number < 1:
        draft.put("training.warmup_ratio", number, steps)
    else:
        draft.put("training.warmup_steps", int(number), steps)
    if number and share and takes_one:
        draft.refuse(ratio, f"{draft.tool} takes no `{ratio}` beside `{steps}`", f"remove it, or `{steps}`")
    elif number and share:
        draft.unused(ratio, f"`{steps}` takes precedence, as in transformers 4 (early versions of 5 use `{ratio}`)")
    elif share is not None:
        draft.unused(ratio, f"`{steps}` takes precedence")


# Evaluations, checkpoints, trackers


def interval(draft: Draft, steps: str, strategy: str, recipe: str) -> None:
    """Write `training.eval_steps` or `training.save_steps`; lorans's default is once per epoch.

    Args:
        draft: the translation.
        steps: key with the number of steps.
        strategy: key with `no`, `steps` or `epoch`.
        recipe: `training.eval_steps` or `training.save_steps`.
    """
    number = draft.number(steps)
    if number is not None and number >= 1:
        draft.put(recipe, int(number), steps)
    elif number is not None:
        draft.unused(steps, f"it does not change results; lorans's default is once per epoch (`{recipe}`)")
    if draft.has(strategy):
        kind = draft.text(strategy, "")
        if kind == "epoch" or (kind == "steps" and number):
            draft.same(strategy, f"`{recipe}` if set, otherwise once per epoch")
        else:
            draft.unused(strategy, f"it does not change results; lorans's default is once per epoch (`{recipe}`)")


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "swanlab", "comet_ml")
"""Values of `tracking.report_to`."""


def report_to(draft: Draft, key: str) -> None:
    """Write `tracking.report_to`; trackers that are not in `TRACKERS` are refused."""
    if not draft.has(key):
        return
    asked = [name for name in draft.names(key) if name != "none"]
    unknown = [name for name in asked if name not in TRACKERS]
    if unknown:
        draft.refuse(key, f"lorans does not report to `{unknown[0]}`", f"write one of: {', '.join(TRACKERS)}")
    elif asked:
        draft.put("tracking.report_to", asked, key)
    else:
        draft.same(key, "lorans reports to no tracker by default")


# Names and paths


def task_name(draft: Draft, *keys: str) -> None:
    """Write `task_name`, from the first of these keys that is present, or from the name of the file."""
    given = [str(draft.get(key)) for key in keys if isinstance(draft.get(key), str)]
    for name in (*(PurePath(part).name for part in given), draft.source.path.stem):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
        if plain and "$" not in name:
            draft.recipe["task_name"] = plain
            return
    draft.recipe["task_name"] = "task"


def is_local(path: str) -> bool:
    """True if the name of a dataset is a path, because it exists or looks like one, and not a hub id."""
    if exists(Path(path)):
        return True
    looks = path.startswith((".", "/", "~")) or bool(PurePath(path).suffix in DATA_SUFFIXES) or path.count("/") > 1
    return looks or any(sign in path for sign in "*?")


DATA_SUFFIXES: Sequence[str] = (".arrow", ".csv", ".gz", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".zst")
"""File extensions that names of hub datasets do not have."""
