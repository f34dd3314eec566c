"""How a training ends: by its last step, early, or in time, with the weights of the last step or the best ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_ns.errors import Problem, RunError
from lora_ns.recipe.best_metric import best_metric, is_higher_better
from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import BestRecord, Manifest
from lora_ns.run.observer import Observer
from lora_ns.statistics import Measure
from lora_ns.training.arguments import loads_a_checkpoint
from lora_ns.training.best import BestKeeper, keeping_best
from lora_ns.training.early_stopping import EarlyStopping, stopping_early
from lora_ns.training.evidence import Evidence
from lora_ns.training.time_limit import TimeLimit, ending_in_time

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


@dataclass
class Completion:
    """What a run knows about its end while it trains."""

    limit: TimeLimit | None = None
    keeper: BestKeeper | None = None
    evidence: Evidence | None = None
    ended: str | None = field(default=None, init=False)
    """Why training ended before the planned last step; None if it did not."""

    @classmethod
    def of(
        cls,
        run: RunDir,
        manifest: Manifest,
        limit: TimeLimit | None,
        writes: bool,
        save: Callable[[Path], None],
    ) -> Completion:
        """What a recipe asks for.

        Args:
            run: the run.
            manifest: its manifest.
            limit: the clock of its time limit.
            writes: whether this process writes files.
            save: saves the adapter in training to a new folder.
        """
        recipe = manifest.recipe
        if best_metric(recipe) is None:
            return cls(limit)
        keeper = BestKeeper(run, manifest.run_id, recipe, writes, save)
        return cls(limit, keeper, Evidence(recipe, manifest.labels))

    def callbacks(
        self, manifest: Manifest, writes: bool, observer: Observer, trainer: Callable[[], Trainer]
    ) -> list[TrainerCallback]:
        """The callbacks, in the order in which they see an evaluation: all metrics have to be known."""
        found: list[TrainerCallback] = []
        if self.keeper is not None and self.evidence is not None:
            found = [_checking_metric(self.keeper.metric), keeping_best(self.keeper, trainer)]
            if patience := manifest.recipe.training.early_stopping_patience:
                name = self.keeper.metric
                threshold = manifest.recipe.training.early_stopping_threshold
                early = EarlyStopping(name, bool(is_higher_better(manifest.recipe, name)), patience, threshold)
                found.append(stopping_early(early, self.evidence.measured, self._end, writes, observer.warn))
        return [*found, ending_in_time(self.limit, self._end)] if self.limit else found

    @property
    def of_suites(self) -> dict[str, Measure]:
        """Receives the figures of suites at each evaluation."""
        return self.evidence.of_suites if self.evidence else {}

    def watch(self, trainer: Trainer) -> None:
        """Follow the evaluations of a trainer."""
        if self.evidence:
            self.evidence.watch(trainer)

    def complete(self, manifest: Manifest, trainer: Any) -> int:
        """Evaluate what a time limit left unmeasured, and give the model its best weights, if the recipe asks for them.

        The evaluation comes after the last checkpoint, so that it does not change how the run continues.

        Returns:
            The step of the weights that the model has now.
        """
        measured = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
        if self.ended and trainer.args.eval_strategy != "no" and measured[-1:] != [trainer.state.global_step]:
            trainer.evaluate()
        last, best = int(trainer.state.global_step), self.best
        if self.keeper is not None:
            self.keeper.end()
        if best is None or not manifest.recipe.training.load_best_model_at_end:
            return last
        if loads_a_checkpoint(manifest.recipe):
            return int(trainer.state.best_global_step or last)
        if self.keeper is not None and best.step != last:
            self.keeper.put_back(trainer.model)
        return best.step

    @property
    def best(self) -> BestRecord | None:
        """The best evaluation; None if there was none, or the recipe asks for none."""
        return self.keeper.record if self.keeper else None

    def _end(self, reason: str) -> None:
        self.ended = self.ended or reason


def _checking_metric(wanted: str) -> TrainerCallback:
    from transformers import TrainerCallback

    class CheckingMetric(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Ends the run at its first evaluation if that lacks the metric."""

        def on_evaluate(self, _args: Any, _state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
            check_measured(wanted, metrics)

    return CheckingMetric()


def check_measured(wanted: str, metrics: dict[str, float]) -> None:
    """Check that an evaluation has a metric. Raises `RunError`."""
    names = [name.removeprefix("eval_") for name in metrics if name.startswith("eval_")]
    if wanted not in names:
        known = ", ".join(name for name in names if not name.endswith(("runtime", "per_second")))
        what = f"the evaluation has no `{wanted}`"
        raise RunError(Problem("", what, f"known: {known}", key="training.metric_for_best_model"))
