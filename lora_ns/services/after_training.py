"""The verdict at the end of a training: the answers after it against those before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.files.reading import is_file, read_json
from lora_ns.run.directory import RunDir
from lora_ns.services.evaluate_suites import Answered
from lora_ns.services.verdicts import SuiteReport, report, save_evaluation
from lora_ns.suites import Gold, Suite
from lora_ns.training.fit import TrainResult

BEFORE_NAME, AFTER_NAME = "before", "after"
"""Names of the model before and after training."""


@dataclass(frozen=True)
class JudgedTraining(TrainResult):
    """The result of `lorans train`, with what training has changed."""

    suites: tuple[SuiteReport, ...] = ()
    """The figures of exact match and all suites before and after training, with verdicts."""
    saved: str | None = None
    """Folder in the run with the figures and the answer to each item."""
    notes: tuple[str, ...] = ()
    """Suites without a verdict, and why."""


def judged(result: TrainResult) -> JudgedTraining:
    """Compare the answers after training with those before it. Without the latter, there is no verdict.

    Raises:
        UsageError: if the answers that the run keeps cannot be read.
    """
    run = RunDir(Path(result.run))
    if not is_file(run.answers_before) or not is_file(run.answers_after):
        return JudgedTraining(**vars(result))
    before, after = read_json(run.answers_before), read_json(run.answers_after)
    suites = [suite for suite in run.read().recipe.evaluation.asked if suite.title in after]
    changed = [suite.title for suite in suites if _items(before, suite) != _items(after, suite)]
    notes = [f"no verdict on `{title}`: its rows have changed since training began" for title in changed]
    answered = [_answered(suite, before, after) for suite in suites if suite.title not in changed]
    reports = report(answered, [(AFTER_NAME, BEFORE_NAME)])
    saved = save_evaluation(run, answered, reports, result.adapter_step) if answered else None
    return JudgedTraining(**vars(result), suites=tuple(reports), saved=saved, notes=tuple(notes))


def _items(kept: Mapping[str, Any], suite: Suite) -> Any:
    return kept.get(suite.title, {}).get("items")


def _answered(suite: Suite, before: Mapping[str, Any], after: Mapping[str, Any]) -> Answered:
    golds = [Gold(**gold) for gold in _items(after, suite)]
    sides = {AFTER_NAME: after, BEFORE_NAME: before}
    return Answered(suite, golds, {name: kept[suite.title]["answers"] for name, kept in sides.items()})
