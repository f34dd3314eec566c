"""The systems of a bisection: a run in the order of its training, each asked the same items once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.answers.ask import Asked, ask
from lora_ns.answers.opened import Opened, kept_rows
from lora_ns.answers.weights import ADAPTER, BASE
from lora_ns.answers.work import Compute
from lora_ns.data.rows import Row
from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.best_adapter import find_best
from lora_ns.run.earlier import kept_problems
from lora_ns.run.last_checkpoint import best_of, search
from lora_ns.run.metrics import read_metrics
from lora_ns.services.bisect_metric import Metric
from lora_ns.services.evaluate_suites import ADAPTER_NAME, BASE_NAME, rows_of
from lora_ns.services.verdicts import Figure
from lora_ns.statistics import Comparison, Verdict, compare, estimate

if TYPE_CHECKING:
    from lora_ns.statistics import Measure

START_NAME = "start"
"""Name of the adapter that a run with `model.init_adapter` started from."""


@dataclass(frozen=True)
class Point:
    """The weights of a run after some steps of its training."""

    name: str
    step: int
    weights: str


@dataclass(frozen=True)
class Reading:
    """The figure of a system, with a verdict against the one that counts as good."""

    system: str
    step: int
    figure: Figure
    against: str | None = None
    """Name of the system that it is compared with; None for that one itself."""
    verdict: Verdict | None = None
    reason: str = ""


@dataclass
class Asker:
    """Asks systems of a run the same items, each once."""

    opened: Opened
    metric: Metric
    asked: Asked
    compute: Compute
    is_usual: bool = False
    """True if the items are the evaluation rows that the run stores."""
    _measures: dict[str, Measure] = field(default_factory=dict)

    @classmethod
    def of(cls, opened: Opened, metric: Metric, rows: Sequence[Row] | None, compute: Compute) -> Asker:
        """Prepare the items of a metric.

        Args:
            opened: the run.
            metric: the figure to measure.
            rows: rows for suites without a file; None for the evaluation rows that the run stores.
            compute: computes the tasks of the run.

        Raises:
            UsageError: if there are no rows, or the run has no such figure.
            DataError: names the rows that cannot be asked.
        """
        usual = kept_rows(opened.manifest) if rows is None else rows
        chosen = metric.rows_of(rows_of(metric.suite, opened.manifest, usual))
        is_usual = rows is None and metric.suite.path is None
        return cls(opened, metric, ask(opened, metric.suite, chosen, opened.manifest), compute, is_usual)

    def ask(self, *points: Point) -> None:
        """Ask those that have not been asked yet, together."""
        new = [point for point in points if point.name not in self._measures]
        results = self.compute([self.asked.task(point.weights) for point in new]) if new else []
        for point, found in zip(new, results, strict=True):
            by_name = self.metric.suite.measure(self.asked.golds, self.asked.answers(found))
            self._measures[point.name] = by_name[self.metric.figure]

    def figure(self, point: Point) -> Figure:
        """The figure of a system, with its interval."""
        self.ask(point)
        found = estimate(self._measures[point.name], clusters=self._clusters())
        return Figure(found.value, found.interval.low, found.interval.high)

    def compare(self, point: Point, against: Point) -> Comparison:
        """A paired comparison of a system with another one."""
        self.ask(against, point)
        return compare(
            self._measures[against.name],
            self._measures[point.name],
            higher_is_better=self.metric.higher_is_better,
            clusters=self._clusters(),
        )

    def is_share(self) -> bool:
        """True if the figure is a share of the items."""
        return any(measure.unit == "points" for measure in self._measures.values())

    def reading(self, point: Point, good: Point | None) -> Reading:
        """The figure of a system, and its verdict against the good one."""
        if good is None or point == good:
            return Reading(point.name, point.step, self.figure(point))
        found = self.compare(point, good)
        return Reading(point.name, point.step, self.figure(point), good.name, found.verdict, found.reason)

    def asked_of(self, points: Sequence[Point]) -> list[Point]:
        """Those of some systems that have been asked."""
        return [point for point in points if point.name in self._measures]

    def _clusters(self) -> list[str] | None:
        column = self.metric.suite.cluster_by
        return [str(gold.values.get(column)) for gold in self.asked.golds] if column else None


@dataclass(frozen=True)
class Course:
    """The systems of a run in the order of training."""

    begin: Point
    """The base, or the adapter that training started from."""
    checkpoints: tuple[Point, ...]
    """Intact checkpoints before the adapter, by step."""
    end: Point
    """The adapter."""
    best: Point | None = None
    """The checkpoint with the best metric during training, if training kept one."""

    @classmethod
    def of(cls, opened: Opened) -> Course:
        """Find the systems of a run.

        Raises:
            UsageError: if there are no intact checkpoints.
        """
        run, manifest = opened.run, opened.manifest
        folders = search(run.checkpoints, manifest.run_id, every=True).whole
        found = {step: folder for step, folder in sorted(folders.items()) if (folder / WEIGHTS).is_file()}
        if not found:
            remedy = "train with `training.save_steps` and `training.save_total_limit`, which set how many a run keeps"
            raise UsageError(Problem(str(run.checkpoints), "there are no intact checkpoints to search", remedy))
        best = best_of(found[max(found)])
        end = _last_step(opened, best)
        kept = find_best(run, manifest.run_id)
        if kept is not None and not manifest.recipe.peft.moves_base:  # else it has another rank than the checkpoints
            best = found.setdefault(kept.record.step, kept.folder)
            found = dict(sorted(found.items()))
        points = tuple(Point(folder.name, step, str(folder)) for step, folder in found.items() if step < end)
        is_later = manifest.init_adapter is not None
        if is_later and (problems := kept_problems(run, manifest, starts=True)):
            raise UsageError(problems)
        return cls(
            Point(START_NAME, 0, str(run.start)) if is_later else Point(BASE_NAME, 0, BASE),
            points,
            Point(ADAPTER_NAME, end, ADAPTER),
            next((point for point in points if best and point.name == best.name), None),
        )

    def all(self) -> tuple[Point, ...]:
        """All systems, by step."""
        return (self.begin, *self.checkpoints, self.end)

    def candidates(self, good: str | None) -> list[Point]:
        """The systems that may count as good: the named one, or the base, the first checkpoint and the best one.

        Raises:
            UsageError: if there is no such checkpoint before the adapter.
        """
        if good is None:
            usual = (self.begin, *self.checkpoints[:1], *([self.best] if self.best else []))
            return list(dict.fromkeys(usual))
        for point in (self.begin, *self.checkpoints):
            if good in {point.name, str(point.step)}:
                return [point]
        names = [point.name for point in (self.begin, *self.checkpoints)]
        hint = did_you_mean(good, names) or f"one of: {', '.join(names)}"
        raise UsageError(Problem("--good", f"there is no intact checkpoint `{good}` before the adapter", hint))


def _last_step(opened: Opened, best: Path | None) -> int:
    """The step of the adapter: the last one, or the best one if the run ended with that."""
    if opened.manifest.adapter_step is not None:
        return opened.manifest.adapter_step
    if opened.manifest.recipe.training.extra.get("load_best_model_at_end") and best is not None:
        return int(best.name.rpartition("-")[2])
    return max((int(row["step"]) for row in read_metrics(opened.run.metrics).rows), default=2**63)
