"""Replays of a few steps of a run in a temporary folder, from one of its checkpoints or its first step."""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import RunError
from lora_ns.files.temporary import temporary_folder
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.plan import computed
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer
from lora_ns.training.fit import train_and_seal
from lora_ns.training.prepared import PreparedRun
from lora_ns.training.row_losses import row_losses

if TYPE_CHECKING:
    import datasets
    from transformers import Trainer, TrainerCallback

MOST_EVAL_ROWS = 100
"""Evaluation rows whose loss is measured at the end of a replay."""


@dataclass(frozen=True)
class Window:
    """The steps to replay, and everything that determines them."""

    run: RunDir
    manifest: Manifest
    prepared: PreparedRun
    checkpoint: tuple[Path, int] | None
    """Where they begin; None for the first step of the run."""
    steps: int
    rate: float = 1.0
    """Factor of the learning rate."""

    @property
    def begin(self) -> int:
        """The step after which they begin."""
        return self.checkpoint[1] if self.checkpoint else 0

    @property
    def end(self) -> int:
        """The last step."""
        return min(self.begin + self.steps, self.manifest.plan.max_steps.value or 0)

    def with_recipe(self, **tables: Any) -> Window:
        """The same steps with other tables of the recipe."""
        recipe = self.manifest.recipe.model_copy(update=tables)
        return replace(self, manifest=self.manifest.model_copy(update={"recipe": recipe}))

    def with_plan(self, **values: Any) -> Window:
        """The same steps with other values of the plan."""
        plan = self.manifest.plan.model_copy(update={name: computed(value) for name, value in values.items()})
        return replace(self, manifest=self.manifest.model_copy(update={"plan": plan}))

    def with_training(self, **keys: Any) -> Window:
        """The same steps with other keys of `[training]`."""
        return self.with_recipe(training=self.manifest.recipe.training.model_copy(update=keys))

    def with_rows(self, rows: datasets.Dataset) -> Window:
        """The same steps on other training rows."""
        return replace(self, prepared=replace(self.prepared, data=(rows, self.prepared.data[1])))


@dataclass(frozen=True)
class Course:
    """What a replay has shown."""

    losses: tuple[float, ...] = ()
    """Training loss of each step."""
    held_out: float | None = None
    """Loss of the evaluation rows after the last step."""
    broken: str = ""
    """Why it ended early; empty if it did not."""
    last_rows: tuple[int, ...] = ()
    """Numbers of the training rows of the last batches, if it broke."""
    asked: tuple[float, ...] = ()
    """The loss of each row that was asked for, alone, before the first step."""

    @property
    def is_broken(self) -> bool:
        """True if a loss or a gradient was not finite."""
        return bool(self.broken)

    @property
    def level(self) -> float:
        """The training loss at the end: the mean of the last third of the steps; infinite if it broke."""
        if self.is_broken or not self.losses:
            return math.inf
        last = self.losses[-max(1, len(self.losses) // 3) :]
        return sum(last) / len(last)

    @property
    def reached(self) -> float:
        """The loss that counts: that of the evaluation rows, or without these, the training loss at the end."""
        if self.is_broken:
            return math.inf
        return self.level if self.held_out is None else self.held_out


def play(window: Window, asked: Sequence[int] = ()) -> Course:
    """Train the steps of a window; nothing of the run is changed.

    Args:
        window: the steps.
        asked: numbers of training rows whose own loss is wanted.

    Raises:
        LoransError: any error of a training, except that its loss breaks.
    """
    short = _shortened(window)
    watch = _Watch(short, asked)
    broken = ""
    with _copied(short) as copy:
        try:
            train_and_seal(copy, short.manifest, short.prepared, watch, short.checkpoint, StopSignal())
        except _EnoughError:
            pass
        except RunError as error:
            if not watch.has_begun:
                raise
            is_learned = watch.losses[-1:] == [0.0]  # which ends a run, because it is seldom meant
            broken = "" if is_learned else str(error)
    gc.collect()
    broken = broken or watch.broken
    last = tuple(watch.batches.last_rows()) if broken else ()
    return Course(tuple(watch.losses), watch.held_out, broken, last, tuple(watch.asked))


def _shortened(window: Window) -> Window:
    """The window in one process, with one evaluation at its end, and nothing that a replay does not need."""
    recipe = window.manifest.recipe.as_trial()
    training = recipe.training.model_copy(update={"dataloader_num_workers": 0})
    recipe = recipe.model_copy(update={"training": training})
    changed = replace(window, manifest=window.manifest.model_copy(update={"recipe": recipe}))
    never = 10 * (window.manifest.plan.max_steps.value or 1)
    changed = changed.with_plan(logging_steps=1, eval_steps=window.end, save_steps=never)
    held_out = window.prepared.data[1]
    if held_out is not None:
        held_out = held_out.select(range(min(MOST_EVAL_ROWS, len(held_out))))
    return replace(changed, prepared=replace(changed.prepared, data=(changed.prepared.data[0], held_out)))


@contextmanager
def _copied(window: Window) -> Iterator[RunDir]:
    """A temporary run with what the first one keeps for a resume, by links."""
    run = window.run
    with temporary_folder() as folder:
        copy = RunDir(folder / "run")
        copy.path.mkdir()
        for part in (run.start, run.base_adapters, run.reference, run.data, run.code):
            if part.is_dir():
                (copy.path / part.name).symlink_to(part.absolute(), target_is_directory=True)
        copy.checkpoints.mkdir()
        copy.write(window.manifest)
        yield copy


class _EnoughError(Exception):
    """The last step of a window is over."""


class _Watch(Observer):
    """Follows a replay, and ends it after its last step."""

    def __init__(self, window: Window, asked: Sequence[int]) -> None:
        self._window, self._numbers = window, asked
        self.batches = _Batches(window.prepared.data[0], window.manifest.plan.gradient_accumulation_steps.value)
        self._is_last = False
        self.losses: list[float] = []
        self.asked: list[float] = []
        self.held_out: float | None = None
        self.has_begun = False
        self.broken = ""

    def ready(self, trainer: Trainer) -> None:
        """Add what notes the batches, and what changes the rate and asks rows once a checkpoint is loaded."""
        trainer.data_collator = self.batches.noting(trainer.data_collator)
        trainer.add_callback(_at_begin(self._window.rate, lambda: self._ask(trainer)))

    def begin(self, step: int, steps: int) -> None:
        """Training begins."""
        self.has_begun = True

    def logged(self, row: dict[str, Any]) -> None:
        """Keep the losses, and end the replay after the last one, or at one that is not finite.

        In float16 the loss scaler looks for its scale by gradients that are not.
        """
        names = ("loss",) if self._window.manifest.plan.dtype.value == "float16" else ("loss", "grad_norm")
        if name := next((name for name in names if not math.isfinite(row.get(name) or 0.0)), None):
            self.broken = f"step {row['step']:,}: {name} is {row[name]}"
            raise _EnoughError
        if "loss" in row:
            self.losses.append(float(row["loss"]))
            self._is_last = row["step"] >= self._window.end
        if "eval_loss" in row:
            self.held_out = float(row["eval_loss"])
        if self._is_last and (self.held_out is not None or self._window.prepared.data[1] is None):
            raise _EnoughError

    def _ask(self, trainer: Any) -> None:
        rows = self._window.prepared.data[0].select(self._numbers)
        self.asked = [loss for loss, _ in row_losses(trainer, rows)] if self._numbers else []


class _Batches:
    """The last batches of a replay: those of the last steps that may break, and one that is read ahead."""

    def __init__(self, rows: datasets.Dataset, accumulation: int) -> None:
        self._rows = rows
        self._seen: deque[list[dict[str, Any]]] = deque(maxlen=accumulation * _BREAKING + 1)

    def noting(self, collator: Callable[[list[dict[str, Any]]], Any]) -> Callable[[list[dict[str, Any]]], Any]:
        """A collator that notes the rows of each batch before it does the same as another one."""

        def collate(rows: list[dict[str, Any]]) -> Any:
            self._seen.append([dict(row) for row in rows])
            return collator(rows)

        return collate

    def last_rows(self) -> list[int]:
        """Numbers of the rows of the last batches, found by their content."""
        noted = [row for batch in self._seen for row in batch]
        if not noted:
            return []
        columns = [name for name in noted[0] if name in self._rows.column_names]
        wanted = {repr([row[name] for name in columns]) for row in noted}
        return [
            number
            for number, row in enumerate(self._rows.select_columns(columns))
            if repr([row[name] for name in columns]) in wanted
        ]


_BREAKING = 3
"""Steps whose loss is not finite after which a training ends."""


def _at_begin(rate: float, ask: Callable[[], None]) -> TrainerCallback:
    from transformers import TrainerCallback

    class AtBegin(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Changes the learning rate of optimizer and schedule, which a checkpoint restores, and asks rows."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            for group in given["optimizer"].param_groups:
                group["lr"] *= rate
            scheduler = given["lr_scheduler"]
            scheduler.base_lrs = [rate * one for one in scheduler.base_lrs]
            ask()

    return AtBegin()
