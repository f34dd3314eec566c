"""What is in a checkpoint that a library unpickles without limits: nothing but tensors and DeepSpeed's own state.

transformers reads optimizers and random states by torch's restricted unpickler. DeepSpeed does not, and a pickle can
name any function of Python.
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
"""Classes without behaviour of their own that DeepSpeed writes into its states."""


_TAG = re.compile(r"global_step\d+")


def check_deepspeed_states(checkpoint: Path) -> None:
    """Refuse states of DeepSpeed that name anything else than DeepSpeed writes.

    Raises:
        UsageError: with the file, and what it names.
    """
    latest = checkpoint / "latest"
    tag = read_bytes(latest, most=KIB, remedy=REMEDY).decode("utf-8", "replace").strip() if latest.is_file() else ""
    if not _TAG.fullmatch(tag):
        raise UsageError(Problem(str(latest), "does not name the folder of a step", REMEDY))
    for file in (checkpoint / tag, *sorted((checkpoint / tag).rglob("*"))):
        if file.is_symlink():
            raise UsageError(Problem(str(file), "is a link, and states of DeepSpeed are files", REMEDY))
        if file.suffix == ".pt" and (named := _foreign(file)):
            raise UsageError(Problem(str(file), f"would run code of others: it names {named}", REMEDY))


REMEDY = "restore the checkpoint, or remove it to go on from the one before"
"""What to do about a checkpoint that cannot be read."""


def _foreign(file: Path) -> str:
    """What a file names that neither tensors need nor DeepSpeed writes."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        found = set(get_unsafe_globals_in_checkpoint(file)) - _OF_DEEPSPEED
    except (ValueError, EOFError, RuntimeError, pickle.UnpicklingError, AssertionError, UnicodeDecodeError) as error:
        return f"something that cannot be read ({first_line(error)[:100]})"
    return ", ".join(f"`{name}`" for name in sorted(found))
