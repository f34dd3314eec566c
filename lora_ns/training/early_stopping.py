"""Early stopping: training ends when a metric has not improved by more than its noise on the evaluation rows.

An evaluation is compared with the last one that counted as an improvement, item by item, so that what all models find
hard does not count as noise. Many small improvements add up until they count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import LARGEST_LIST, is_file, read_json
from lora_ns.parallel.group import of_first_rank
from lora_ns.run.manifest import EARLY
from lora_ns.statistics import Measure, compare
from lora_ns.statistics.measures import Sums

if TYPE_CHECKING:
    from transformers import TrainerCallback

STATE = "early_stopping.json"
"""File of a checkpoint with the state of early stopping."""

ONE_STANDARD_ERROR = 0.6827
"""Confidence level of an improvement: one standard error, as in the rule for choosing among models (Breiman 1984)."""

Measured = Callable[[str], Measure | None]
"""Returns a metric of the last evaluation with its items, None if the metric has none that could be compared."""


@dataclass(frozen=True)
class _Counted:
    """The last evaluation that counted as an improvement."""

    step: int
    value: float
    rows: list[list[float]] | None
    """What each item adds to the sums of its figure; None if its items are not known."""


class EarlyStopping:
    """Counts the evaluations since the last improvement."""

    def __init__(self, metric: str, is_higher_better: bool, patience: int, threshold: float) -> None:
        """Start without an evaluation.

        Args:
            metric: the metric, without `eval_`.
            is_higher_better: its direction.
            patience: evaluations without an improvement after which training ends.
            threshold: what an improvement must exceed beside the noise.
        """
        self.metric = metric
        self.waited = 0
        self._is_higher_better, self._patience, self._threshold = is_higher_better, patience, threshold
        self._best: _Counted | None = None

    def look(self, step: int, value: float, measure: Measure | None = None) -> str | None:
        """Take an evaluation, and return the reason to stop, None to go on.

        Args:
            step: its step.
            value: the metric.
            measure: the metric with its items, if they are known.
        """
        if self._improves(value, measure):
            rows = measure.rows.tolist() if isinstance(measure, Sums) else None
            self._best, self.waited = _Counted(step, value, rows), 0
            return None
        self.waited += 1
        if self.waited < self._patience:
            return None
        beyond = " beyond its noise" if isinstance(measure, Sums) else ""
        evaluations = "1 evaluation" if self.waited == 1 else f"{self.waited} evaluations"
        since = f" since {self._best.value:.4g} at step {self._best.step:,}" if self._best else ""
        return f"{EARLY}`eval_{self.metric}` has not improved{beyond} in {evaluations}{since}"

    def _improves(self, value: float, measure: Measure | None) -> bool:
        if math.isnan(value):
            return False
        if self._best is None:
            return True
        gain = value - self._best.value if self._is_higher_better else self._best.value - value
        if not gain > self._threshold:
            return False
        rows = self._best.rows
        if not isinstance(measure, Sums) or rows is None or len(rows) != len(measure.rows):
            return True
        import numpy as np

        before = np.array(rows)
        scores = None if measure.scores is None else before[:, 1] / np.where(before[:, 0] > 0, before[:, 0], 1)
        earlier = replace(measure, rows=before, scores=scores)
        found = compare(earlier, measure, higher_is_better=self._is_higher_better, level=ONE_STANDARD_ERROR)
        return found.verdict == "better"

    def save(self, file: Path) -> None:
        """Write the state. Raises `RunError`."""
        best = None if self._best is None else vars(self._best)
        write_atomic(file, json.dumps({"metric": self.metric, "waited": self.waited, "best": best}))

    def restore(self, file: Path) -> bool:
        """Continue from a written state; False if it is missing, damaged, or of another metric."""
        if not is_file(file):
            return False
        try:
            table = read_json(file, most=LARGEST_LIST)
            best, metric, waited = table["best"], table["metric"], int(table["waited"])
            found = best and _Counted(int(best["step"]), float(best["value"]), best["rows"])
        except (UsageError, KeyError, TypeError, ValueError):
            return False
        if metric != self.metric:
            return False
        self._best, self.waited = found, waited
        return True


def stopping_early(
    stopping: EarlyStopping, measured: Measured, end: Callable[[str], None], writes: bool, warn: Callable[[str], None]
) -> TrainerCallback:
    """A callback that ends training by early stopping; its state is in every checkpoint.

    Args:
        stopping: takes the evaluations, on rank 0.
        measured: returns the metric of the last evaluation with its items, on rank 0.
        end: told why training ends.
        writes: whether this process writes files.
        warn: told if the state of a checkpoint cannot be used.
    """
    from transformers import TrainerCallback

    def file_of(args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE

    class StoppingEarly(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `stopping_early`."""

        def on_train_begin(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step and writes and not stopping.restore(file_of(args, state)):
                warn(f"early stopping counts anew, because the checkpoint has no usable {STATE}")

        def on_evaluate(self, _args: Any, state: Any, control: Any, metrics: Mapping[str, float], **_: Any) -> None:
            name = stopping.metric
            reason = of_first_rank(
                lambda: stopping.look(state.global_step, float(metrics[f"eval_{name}"]), measured(name))
            )
            if reason and state.global_step < state.max_steps:
                end(reason)
                control.should_save = control.should_training_stop = True

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            if writes:
                stopping.save(file_of(args, state))

    return StoppingEarly()
