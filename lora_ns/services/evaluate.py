"""Evaluation of a finished run, on its own evaluation rows or on other rows of the same format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_ns.answers.label import baseline_of
from lora_ns.answers.opened import Opened, format_of, kept_rows, load, load_with_start
from lora_ns.answers.weights import BASE
from lora_ns.answers.work import Compute, compute_here
from lora_ns.data.find_labels import check_named
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Preference, TextClassification, TokenClassification
from lora_ns.machine.packages import check_suites_installed
from lora_ns.objectives.calibration import Calibration
from lora_ns.objectives.metrics import classification_metrics, multi_label_metrics, regression_metrics, tag_metrics
from lora_ns.objectives.targets import Targets
from lora_ns.recipe.generation import Generation
from lora_ns.recipe.recipe import Recipe
from lora_ns.services.evaluate_pairs import encode_pairs, evaluate_pairs
from lora_ns.services.evaluate_rewards import evaluate_rewards
from lora_ns.services.evaluate_suites import (
    ADAPTER_NAME,
    BASE_NAME,
    System,
    answer_suites,
    contests_of,
    rows_of,
)
from lora_ns.services.infer import infer
from lora_ns.services.verdicts import Differing, SuiteReport, differing, report, save_evaluation
from lora_ns.suites import ExactMatchSuite, HeldOutSuite, Suite


@dataclass(frozen=True)
class EvaluateResult:
    """The metrics of an evaluation, and the number of its rows."""

    rows: int
    metrics: dict[str, float]
    truncated: int = 0
    """Number of text rows that were cut off at `max_seq_length`."""
    baseline: dict[str, float] = field(default_factory=dict)
    """Metrics of the constant answer that was best on the training rows; only for labels, scores and tags."""
    notes: tuple[str, ...] = ()
    """Warnings about truncated rows, and about metrics that are no better than the baseline's."""
    calibration: Calibration | None = None
    """Calibration of a reward model."""
    suites: tuple[SuiteReport, ...] = ()
    """The figures of all systems on the same items, with verdicts."""
    saved: str | None = None
    """Folder in the run with the figures and the answer to each item."""
    differences: tuple[Differing, ...] = ()
    """Items that run and base answer differently."""


@dataclass(frozen=True)
class Beside:
    """Suites to ask beside the usual figures, and systems to ask beside the adapter and its base."""

    suites: tuple[Suite, ...] = ()
    systems: tuple[System, ...] = ()
    show: int = 0
    """Number of items to show that run and base answer differently."""


def evaluate(
    opened: Opened,
    rows: Sequence[Row] | None,
    exact_match: bool,
    computing: Callable[[Opened], Compute] = compute_here,
    beside: Beside = Beside(),
) -> EvaluateResult:
    """Evaluate a run beside its base: loss, exact match and suites for text; the usual metrics for all others.

    Args:
        opened: the run.
        rows: rows with answers; None for the evaluation rows that the run stores.
        exact_match: whether to generate answers and compare them.
        computing: makes the function that computes the tasks of a run; by default, in this process.
        beside: further suites, and systems that answer them too.

    Raises:
        UsageError: if there are no rows, or the run has no such figures.
        DataError: names the rows that cannot be read.
    """
    manifest = opened.manifest
    objective = manifest.recipe.objective
    rows = kept_rows(manifest) if rows is None else rows
    named = {suite.title for suite in beside.suites}
    usual = [suite for suite in _usual_suites(manifest.recipe, exact_match) if suite.title not in named]
    suites = (*usual, *beside.suites)
    if not rows and not (suites and all(suite.path for suite in suites)):
        raise UsageError(Problem(str(opened.run.path), "the run has no evaluation rows", "give a file with `--data`"))
    if suites and not objective.writes_text:
        what = f"a run of `[{objective.toml}]` writes no text"
        raise UsageError(Problem("--exact-match" if exact_match else "--suite", what, "leave it out"))
    if not objective.writes_text and Preference not in objective.examples:
        return _labels(opened, rows, computing(opened))
    if objective.generates and not objective.reward_functions and not suites:
        what = f"a run of `[{objective.toml}]` is measured by the answers that it generates"
        raise UsageError(Problem("--exact-match", what, "add it, and give rows with answers"))
    check_suites_installed(suites)
    found = _measured(opened, rows)
    systems = [System(ADAPTER_NAME, found.opened), System(BASE_NAME, found.opened, BASE), *beside.systems]
    answered = answer_suites(systems, suites, lambda suite: rows_of(suite, manifest, rows), computing)
    reports = report(answered, contests_of(systems)) if answered else []
    truncated = found.truncated + sum(one.truncated for one in answered)
    key = objective.key("max_seq_length")
    notes = (f"{truncated:,} rows are longer than `{key}` and were truncated",) if truncated else ()
    return EvaluateResult(
        len(rows) or reports[0].whole.items,
        found.metrics | _usual_metrics(reports),
        truncated,
        notes=notes,
        calibration=found.calibration,
        suites=tuple(reports),
        saved=save_evaluation(opened.run, answered, reports) if answered else None,
        differences=tuple(differing(answered, ADAPTER_NAME, BASE_NAME, beside.show)),
    )


def _usual_suites(recipe: Recipe, exact_match: bool) -> list[Suite]:
    """The suites without a name of their own: the loss of text that is trained on, and exact match if asked for."""
    objective, settings = recipe.objective, recipe.evaluation
    learns_answers = objective.writes_text and not objective.generates and Preference not in objective.examples
    suites: list[Suite] = [HeldOutSuite()] if learns_answers else []
    if exact_match:
        exact = ExactMatchSuite(
            answer_pattern=settings.answer_pattern, group_by=settings.group_by, max_samples=settings.max_samples
        )
        suites.append(exact)
    return suites


def _usual_metrics(reports: Sequence[SuiteReport]) -> dict[str, float]:
    """The adapter's figures by name, those of a group after the name of the figure, as during training."""
    metrics = {}
    for one in reports:
        title = "" if one.name in {"held-out", "exact-match"} else f"{one.name}."
        for name, by_system in one.whole.figures.items():
            metrics[f"{title}{name}"] = by_system[ADAPTER_NAME].value
            for group, part in one.groups.items():
                metrics[f"{title}{name}/{group}"] = part.figures[name][ADAPTER_NAME].value
    return metrics


@dataclass(frozen=True)
class _Measured:
    """The metrics of an objective that has its own, and the run, whose weights may be loaded by now."""

    opened: Opened
    metrics: dict[str, float] = field(default_factory=dict)
    truncated: int = 0
    calibration: Calibration | None = None


def _measured(opened: Opened, rows: Sequence[Row]) -> _Measured:
    """Measure a run that ranks pairs or gets rewards by its objective's own metrics."""
    objective = opened.manifest.recipe.objective
    if Preference in objective.examples:
        pairs = encode_pairs(opened, rows)
        trained, start = load_with_start(opened) if objective.has_reference else (load(opened), None)
        of_pairs = evaluate_pairs(trained, pairs, start)
        return _Measured(trained, of_pairs.metrics, pairs.tally.truncated, of_pairs.calibration)
    if objective.reward_functions:
        trained = load(opened)
        rewarded = evaluate_rewards(trained, rows)
        return _Measured(trained, rewarded.metrics, rewarded.truncated)
    return _Measured(opened)


def _labels(opened: Opened, rows: Sequence[Row], compute: Compute) -> EvaluateResult:
    expected = _expected(opened, rows)
    predicted = list(infer(opened, rows, Generation(batch_size=32), compute).rows)
    metrics, baseline = _metrics(opened, predicted, expected), baseline_of(opened.manifest)
    if baseline is None:
        return EvaluateResult(len(rows), metrics)
    reached = baseline.measure(expected)
    return EvaluateResult(len(rows), metrics, baseline=reached, notes=tuple(baseline.unbeaten(metrics, reached)))


def _expected(opened: Opened, rows: Sequence[Row]) -> list[Any]:
    """The expected labels of rows, as class indices or scores. Raises `DataError`."""
    form, targets = format_of(opened.manifest), Targets(opened.manifest.labels)
    if isinstance(form, TokenClassification):
        return for_each(rows, lambda row: [targets.number(tag, "tag") for tag in form.example(row.values).tags])
    assert isinstance(form, TextClassification)
    check_named(rows, form, rows[0].where)
    return for_each(rows, lambda row: targets.of(form.label(row.values)))


def _metrics(opened: Opened, predicted: Sequence[dict[str, Any]], expected: Sequence[Any]) -> dict[str, float]:
    form, targets = format_of(opened.manifest), Targets(opened.manifest.labels)
    if isinstance(form, TokenClassification):
        named = [[targets.labels[number] for number in numbers] for numbers in expected]
        return tag_metrics([row["tags"] for row in predicted], named)
    assert isinstance(form, TextClassification)
    found = [row["output"] for row in predicted]
    if form.problem_type == "regression":
        return regression_metrics(found, expected)
    if form.problem_type == "multi_label_classification":
        return multi_label_metrics([targets.of(tuple(labels)) for labels in found], expected)  # type: ignore[misc]
    return classification_metrics([targets.number(label) for label in found], expected, len(targets.labels))
