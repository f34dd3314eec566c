"""Translations that several tools share; each tool's importer calls them with its own names of the keys."""

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
    """Write the rows of one optimizer step: per device x accumulation x `--gpus`.

    Args:
        draft: the translation.
        per_device: the key with the rows of a device, and
        accumulation: the one with the micro-batches of a step; with the tool's defaults of both.
        per_device_default: rows of a device if absent.
        accumulation_default: micro-batches if absent.
    """
    rows = draft.whole(per_device, per_device_default)
    steps = draft.whole(accumulation, accumulation_default)
    product = f"{rows} x {steps} x {draft.gpus} GPU{'s' if draft.gpus != 1 else ''}"
    draft.put("training.global_batch_size", rows * steps * draft.gpus, per_device, accumulation, said=product)
    if draft.gpus == 1:
        draft.note(f"the global batch is that of one GPU ({product}); `--gpus N` if it was trained on N")


# Optimizers and learning rates

OPTIMIZERS: Mapping[str, str] = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_apex_fused": "adamw_torch_fused",
    "adamw_hf": "adamw_torch",
    "paged_adamw": "paged_adamw_32bit",
}
"""Other names of optimizers; all others are passed on, and the recipe's check knows them."""


SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")
"""What `training.lr_scheduler_type` takes, by the names of transformers that all tools use."""


def optimizer(draft: Draft, key: str, default: str) -> None:
    """Write `training.optim`; names are those of transformers in nearly every tool."""
    name = draft.text(key, default)
    draft.put("training.optim", OPTIMIZERS.get(name, name), key, own="adamw_torch")


def scheduler(draft: Draft, key: str, default: str) -> None:
    """Write `training.lr_scheduler_type`."""
    name = draft.text(key, default)
    if name in SCHEDULERS:
        draft.put("training.lr_scheduler_type", name, key, own="cosine")
    elif not draft.is_refused(key):
        draft.refuse(key, "lorans has no such schedule", f"one of: {', '.join(SCHEDULERS)}")


def warmup(draft: Draft, steps: str, ratio: str, default: float | None) -> None:
    """Write `training.warmup_steps`, or else `training.warmup_ratio`.

    Args:
        draft: the translation.
        steps: the key with the number of steps, which comes first where both are there; below 1 it is a share.
        ratio: the key with the share of the run.
        default: the tool's own share, which is written if neither is there.
    """
    number, share = draft.number(steps), draft.number(ratio)
    if number is not None and (number >= 1 or share is None):
        if 0 < number < 1:
            draft.put("training.warmup_ratio", number, steps)
        else:
            draft.put("training.warmup_steps", int(number), steps)
        if share is not None:
            draft.unused(ratio, f"`{steps}` takes its place")
        return
    if number is not None:
        draft.unused(steps, f"it is 0, and `{ratio}` takes its place")
    draft.put("training.warmup_ratio", default if share is None else share, ratio)


# Evaluations, checkpoints, trackers


def interval(draft: Draft, steps: str, strategy: str, recipe: str, per_epoch: str = "") -> None:
    """Write `training.eval_steps` or `training.save_steps`; once an epoch is what lorans does anyway.

    Args:
        draft: the translation.
        steps: the key with the steps between two of them.
        strategy: the key with `no`, `steps` or `epoch`.
        recipe: `training.eval_steps` or `training.save_steps`.
        per_epoch: the key with their number in an epoch.
    """
    number = draft.number(steps)
    if number is not None and number >= 1:
        draft.put(recipe, int(number), steps)
    elif number is not None:
        draft.unused(steps, f"a share of the run changes nothing that is learned: once an epoch, or set `{recipe}`")
    if draft.has(strategy):
        kind = draft.text(strategy, "")
        if kind == "epoch" or (kind == "steps" and number):
            draft.same(strategy, "lorans goes by the steps if there are any, and else by epochs")
        else:
            draft.unused(strategy, f"it changes nothing that is learned: once an epoch, or set `{recipe}`")
    if per_epoch and draft.has(per_epoch):
        count = draft.whole(per_epoch, 1)
        if count == 1:
            draft.same(per_epoch, "once an epoch is what lorans does anyway")
        else:
            draft.unused(
                per_epoch, f"lorans does so once an epoch; for {count}, set `{recipe}` to a {count}th of its steps"
            )


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""What `tracking.report_to` takes."""


def report_to(draft: Draft, key: str) -> None:
    """Write `tracking.report_to`: `none` is none, and other trackers than `TRACKERS` are refused."""
    if not draft.has(key):
        return
    asked = [name for name in draft.names(key) if name != "none"]
    unknown = [name for name in asked if name not in TRACKERS]
    if unknown:
        draft.refuse(key, f"lorans does not report to `{unknown[0]}`", f"one of: {', '.join(TRACKERS)}")
    elif asked:
        draft.put("tracking.report_to", asked, key)
    else:
        draft.same(key, "lorans reports to no tracker unless it is told to")


# Names and places


def task_name(draft: Draft, *keys: str) -> None:
    """Write `task_name` of the first of these keys that is there, such as the name of a run, or of the file."""
    given = [str(draft.get(key)) for key in keys if isinstance(draft.get(key), str)]
    for name in (*(PurePath(part).name for part in given), draft.source.path.stem):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
        if plain and "$" not in name:
            draft.recipe["task_name"] = plain
            return
    draft.recipe["task_name"] = "task"


def is_local(path: str) -> bool:
    """Whether a data set's name is a file or folder, here or by its looks, and not the name of one on the hub."""
    if exists(Path(path)):
        return True
    looks = path.startswith((".", "/", "~")) or bool(PurePath(path).suffix in DATA_SUFFIXES) or path.count("/") > 1
    return looks or any(sign in path for sign in "*?")


DATA_SUFFIXES: Sequence[str] = (".arrow", ".csv", ".gz", ".json", ".jsonl", ".parquet", ".tsv", ".txt", ".zst")
"""Ends of file names that cannot be those of a data set on the hub."""
