"""Check of DeepSpeed's pickled states: they may contain only tensors and DeepSpeed's own classes.

transformers reads optimizer and random states with torch's restricted unpickler. DeepSpeed does not, and a pickle can
name any Python function.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from lora_ns.errors import Problem, UsageError, first_line
from lora_ns.files.reading import KIB, read_bytes

_OF_DEEPSPEED = frozenset(
    {
        "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
)
"""Harmless classes that DeepSpeed writes into its states."""


_TAG = re.compile(r"global_step\d+")


def check_deepspeed_states(checkpoint: Path) -> None:
    """Refuse DeepSpeed states that name anything but tensors and DeepSpeed's own classes.

    Raises:
        UsageError: names the file and the objects that it refers to.
    """
    latest = checkpoint / "latest"
    tag = read_bytes(latest, most=KIB, remedy=REMEDY).decode("utf-8", "replace").strip() if latest.is_file() else ""
    if not _TAG.fullmatch(tag):
        raise UsageError(Problem(str(latest), "does not name the folder of a step", REMEDY))
    for file in (checkpoint / tag, *sorted((checkpoint / tag).rglob("*"))):
        if file.is_symlink():
            raise UsageError(Problem(str(file), "is a symbolic link; a DeepSpeed state must be a file", REMEDY))
        if file.suffix == ".pt" and (named := _foreign(file)):
            raise UsageError(Problem(str(file), f"would run foreign code: it names {named}", REMEDY))


REMEDY = "restore the checkpoint, or remove it to resume from the previous one"
"""The remedy for a checkpoint that cannot be read."""


def _foreign(file: Path) -> str:
    """Names in a pickle that belong neither to tensors nor to DeepSpeed, separated by commas; empty if none."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        found = set(get_unsafe_globals_in_checkpoint(file)) - _OF_DEEPSPEED
    except (ValueError, EOFError, RuntimeError, pickle.UnpicklingError, AssertionError, UnicodeDecodeError) as error:
        return f"something that cannot be read ({first_line(error)[:100]})"
    return ", ".join(f"`{name}`" for name in sorted(found))
