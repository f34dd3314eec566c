"""The best evaluation of a training: its adapter is kept apart from the checkpoints, at whatever step it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.model.saved_adapter import put_weights
from lora_ns.parallel.group import meet, of_first_rank
from lora_ns.parallel.sharding import put_together
from lora_ns.recipe.best_metric import best_metric, is_higher_better
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.best_adapter import begin_at, forget_earlier, replace_best
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import BestRecord

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


class BestKeeper:
    """Keeps the adapter of the best evaluation; of several that are equal, the first one."""

    def __init__(self, run: RunDir, run_id: str, recipe: Recipe, writes: bool, save: Callable[[Path], None]) -> None:
        """Keep nothing yet.

        Args:
            run: the run.
            run_id: its id.
            recipe: its recipe, which names a metric.
            writes: whether this process writes files.
            save: saves the adapter in training to a new folder.
        """
        self.metric = best_metric(recipe) or ""
        self.record: BestRecord | None = None
        self._run, self._run_id, self._writes, self._save = run, run_id, writes, save
        self._is_higher_better = bool(is_higher_better(recipe, self.metric))
        self._saved = 0

    def begin(self, step: int) -> None:
        """Start after a step, with the best evaluation up to it. Every rank calls it."""
        found = begin_at(self._run, self._run_id, step) if self._writes else None
        self.record = of_first_rank(lambda: found.record if found else None)
        self._saved = step

    def look(self, step: int, metrics: Mapping[str, float], trainer: Trainer) -> None:
        """Keep the adapter of an evaluation that is better than all before. Every rank calls it.

        The evaluation before the first step does not count: its adapter has learned nothing.
        """
        if not step:
            return
        value = of_first_rank(lambda: float(metrics[f"eval_{self.metric}"]))
        if not self._is_better(value):
            return
        self.record = BestRecord(step=step, metric=self.metric, value=value)
        divide_again = put_together(trainer)
        if self._writes:
            replace_best(self._run, self._run_id, self.record, self._save, self._saved)
        divide_again()
        meet()

    def saved(self, step: int) -> None:
        """Note a complete checkpoint."""
        self._saved = step

    def end(self) -> None:
        """Remove what only a resumed run would have needed."""
        if self._writes:
            forget_earlier(self._run)

    def put_back(self, model: Any) -> None:
        """Give the model in training the best weights. Every rank calls it."""
        meet()
        put_weights(model, self._run.best)

    def _is_better(self, value: float) -> bool:
        if self.record is None or math.isnan(value):
            return not math.isnan(value)
        return value > self.record.value if self._is_higher_better else value < self.record.value


def keeping_best(keeper: BestKeeper, trainer: Callable[[], Trainer]) -> TrainerCallback:
    """A callback that shows a keeper each evaluation, once all metrics are known."""
    from transformers import TrainerCallback

    class KeepingBest(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `keeping_best`."""

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            keeper.begin(state.global_step)

        def on_evaluate(self, _args: Any, state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
            keeper.look(state.global_step, metrics, trainer())

        def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            keeper.saved(state.global_step)

    return KeepingBest()
