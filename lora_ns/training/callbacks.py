"""Trainer callbacks: write metrics, mark complete checkpoints, stop on a signal, and end a run whose loss is broken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, RunError
from lora_ns.parallel.group import meet, used_memory
from lora_ns.parallel.stop import StopSignal
from lora_ns.run.last_checkpoint import mark_checkpoint
from lora_ns.run.metrics import forget_after
from lora_ns.run.observer import Observer

if TYPE_CHECKING:
    from transformers import TrainerCallback


def make_callbacks(
    run_id: str,
    metrics: Path,
    observer: Observer,
    stop: StopSignal,
    first_step: int,
    marks: bool = True,
    began: Callable[[], None] = lambda: None,
    check_there: Callable[[], None] = lambda: None,
    may_be_zero: bool = False,
    before_marks: Sequence[TrainerCallback] = (),
    skipped: Collection[int] = (),
) -> list[TrainerCallback]:
    """The callbacks of a run.

    Args:
        run_id: written into every checkpoint.
        metrics: the file that rows are appended to; rows after `first_step` are removed.
        observer: receives progress and warnings.
        stop: checked after every step.
        first_step: the step that training continues from, 0 for a new run.
        marks: whether this process marks checkpoints, once every process has written its part.
        began: called once the first step is complete and no signal has arrived.
        check_there: called after every step; raises if the run directory can no longer be written.
        may_be_zero: True if some steps have nothing to learn, so that their loss is 0.
        before_marks: further callbacks, which may write into a checkpoint before it is marked.
        skipped: the steps that were skipped because their gradient was not finite.
    """
    if text := forget_after(metrics, first_step):
        observer.warn(text)
    return [
        _recorder(metrics, observer, first_step, BrokenLoss(may_be_zero, skipped)),
        _steps(observer, stop, began, check_there),
        *before_marks,
        _marker(run_id, marks),
    ]


def _recorder(metrics: Path, observer: Observer, first_step: int, broken: BrokenLoss) -> TrainerCallback:
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Appends every logged row to the metrics, and ends the run if its loss is broken."""

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            row = {"step": state.global_step, **(logs or {})}
            if "loss" in row:
                row["memory_bytes"] = used_memory()
            if "train_runtime" in row and state.global_step == first_step:
                return  # a summary of zero steps; an earlier summary, if the run has one, stays
            with metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            observer.logged(row)
            broken.look(row, args.fp16)

    return Recorder()


def _steps(
    observer: Observer, stop: StopSignal, began: Callable[[], None], check_there: Callable[[], None]
) -> TrainerCallback:
    from transformers import TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Reports each step to the observer, and stops after the current step once a signal has arrived."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            observer.begin(state.global_step, state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            check_there()
            stop.begin(began)
            observer.step(state.global_step, int(state.num_input_tokens_seen))
            if stop.requested():
                control.should_save = True
                control.should_training_stop = True

    return Steps()


def _marker(run_id: str, marks: bool) -> TrainerCallback:
    from transformers import TrainerCallback

    class Marker(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Marks a checkpoint as complete once all its files are on disk."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meet()
            if not marks:
                return
            mark_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", run_id, state.global_step)

    return Marker()


MOST_OVERFLOWS = 10
"""Consecutive logged rows whose gradient may overflow in float16, while the loss scaler searches for its scale."""


class BrokenLoss:
    """Ends a run whose loss or gradient is not finite, or whose loss is exactly 0, unless that may be."""

    def __init__(self, may_be_zero: bool = False, skipped: Collection[int] = ()) -> None:
        """Prepare to look at rows; those of `skipped` steps are expected not to be finite."""
        self._overflows, self._may_be_zero, self._skipped = 0, may_be_zero, skipped

    def look(self, row: Mapping[str, Any], scales: bool) -> None:
        """Check a logged row.

        Args:
            row: a row that the trainer logs.
            scales: whether the loss is scaled, as in float16: a step whose gradient overflows is skipped, and the scale
                halved.

        Raises:
            RunError: if loss or gradient norm is not finite, or the loss is exactly 0.
        """
        broken = [key for key in ("loss", "grad_norm") if not math.isfinite(row.get(key) or 0.0)]
        if row["step"] in self._skipped:
            return
        self._overflows = self._overflows + 1 if broken == ["grad_norm"] and scales else 0
        if broken and not 0 < self._overflows < MOST_OVERFLOWS:
            what = f"step {row['step']}: {broken[0]} is {row[broken[0]]}"
            remedy = "lower `training.learning_rate`, or set `model.dtype`; the last checkpoint is kept"
            raise RunError(Problem("", what, remedy))
        if row.get("loss") == 0.0 and row.get("grad_norm", 0.0) == 0.0 and not self._may_be_zero:
            what = f"step {row['step']}: the loss is exactly 0, so nothing is learned: no token or label contributes"
            raise RunError(Problem("", what, "inspect the rows with `lorans validate --show`"))
