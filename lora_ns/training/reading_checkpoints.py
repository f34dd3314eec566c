"""Reading a checkpoint in the trainer: an exception of a library is reported as a fault of the checkpoint."""

from __future__ import annotations

import contextlib
import functools
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lora_ns.errors import Problem, UsageError
from lora_ns.model.malformed import translating
from lora_ns.training.pickles import REMEDY


@functools.cache
def telling_checkpoints(trainer_class: Any) -> Any:
    """A trainer class that names the checkpoint it cannot resume from, or whose weights it cannot read."""

    class ReadingTrainer(trainer_class):  # type: ignore[misc, unused-ignore]
        """Wraps every method of transformers that reads a part of a checkpoint."""

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            with _reading(resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            with _reading(checkpoint):
                super()._load_optimizer_and_scheduler(checkpoint)

        def _load_scaler(self, checkpoint: str | None) -> None:
            with _reading(checkpoint):
                super()._load_scaler(checkpoint)

        def _load_rng_state(self, checkpoint: str | None) -> None:
            with _reading(checkpoint):
                super()._load_rng_state(checkpoint)

        def _load_best_model(self) -> None:
            with _reading(self.state.best_model_checkpoint):
                super()._load_best_model()

    return ReadingTrainer


@contextlib.contextmanager
def _reading(checkpoint: str | None) -> Iterator[None]:
    """Turn exceptions of the libraries into one line. Raises `UsageError` and `ModelError`."""
    if checkpoint is None:
        yield
        return
    with translating(Problem(checkpoint, "cannot be resumed from", REMEDY)), _telling_pickles(Path(checkpoint)):
        yield


@contextlib.contextmanager
def _telling_pickles(checkpoint: Path) -> Iterator[None]:
    """Turn errors about states that contain more than tensors, or are damaged, into one line. Raises `UsageError`."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise UsageError(Problem(str(checkpoint), f"its weights cannot be read: {error}", REMEDY)) from None
    except pickle.UnpicklingError as error:
        named = re.search(r"Unsupported (?:global|class): (?:GLOBAL )?(\S+)", str(error))
        what = "a state in it cannot be read without running code" + (f": it names `{named[1]}`" if named else "")
        raise UsageError(Problem(str(checkpoint), what, REMEDY)) from None
