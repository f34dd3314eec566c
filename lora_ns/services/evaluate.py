"""Evaluation of a finished run, on its own evaluation rows or on other rows of the same format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lora_ns.answers.opened import Opened, format_of, kept_rows, load, load_with_start
from lora_ns.answers.weights import BASE
from lora_ns.answers.work import Compute, compute_here
from lora_ns.data.rows import Row
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Preference, RowFaultError
from lora_ns.formats.cells import listed
from lora_ns.machine.packages import check_suites_installed
from lora_ns.objectives import Objective
from lora_ns.objectives.calibration import Calibration
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.manifest import Manifest
from lora_ns.services.contamination import compare_with_training
from lora_ns.services.evaluate_labels import answer_label_suites, evaluate_labels
from lora_ns.services.evaluate_pairs import encode_pairs, evaluate_pairs
from lora_ns.services.evaluate_rewards import evaluate_rewards
from lora_ns.services.evaluate_suites import (
    ADAPTER_NAME,
    BASE_NAME,
    CONSTANT_NAME,
    Answered,
    System,
    answer_suites,
    contests_of,
    rows_of,
)
from lora_ns.services.judge_answers import check_judges, judge_answers
from lora_ns.services.measured import Measured
from lora_ns.services.verdicts import Differing, SuiteReport, differing, report, save_evaluation
from lora_ns.suites import HeldOutSuite, Suite


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
    """Evaluate a run beside its base by its loss, exact match and suites; labels beside the best constant answer.

    Args:
        opened: the run.
        rows: rows with answers; None for the evaluation rows that the run stores.
        exact_match: whether to generate answers and compare them.
        computing: makes the function that computes the tasks of a run; by default, in this process.
        beside: further suites, and systems that answer them too.

    Raises:
        UsageError: if there are no rows, or the run has no such figures.
        DataError: names the rows that cannot be read.
        MissingError: if the judge of a suite cannot be reached, before any answer is generated.
        RunError: if a judge stops answering, or answers nonsense.
    """
    manifest = opened.manifest
    objective = manifest.recipe.objective
    rows = kept_rows(manifest) if rows is None else rows
    unnamed, format_notes = _unnamed(manifest, exact_match, beside.suites, rows)
    suites = [*unnamed, *beside.suites]
    if not rows and not (suites and not any(suite.asks_run_rows for suite in suites)):
        raise UsageError(Problem(str(opened.run.path), "the run has no evaluation rows", "give a file with `--data`"))
    _check_askable(objective, suites, exact_match, beside)
    check_suites_installed(suites)
    check_judges(suites)
    found, opened = _measured(opened, rows, computing, beside)
    systems = [System(ADAPTER_NAME, opened), System(BASE_NAME, opened, BASE), *beside.systems]
    asked, ask_notes = _answered(systems, suites, rows, computing)
    answered = [*found.answered, *asked]
    if _has_labels(objective):
        answered, ask_notes = compare_with_training(answered, opened)
    pairs = dict.fromkeys([*contests_of(systems), *contests_of(systems, found.reference)])
    reports = report(answered, list(pairs))
    truncated = found.truncated + sum(one.truncated for one in asked)
    key = objective.key("max_seq_length")
    notes = (f"{truncated:,} rows are longer than `{key}` and were truncated",) if truncated else ()
    notes = (*notes, *format_notes, *(note for one in asked for note in one.notes), *ask_notes)
    return EvaluateResult(
        len(rows) or reports[0].whole.items,
        found.metrics | _usual_metrics(reports[len(found.answered) :]),
        truncated,
        baseline=found.baseline,
        notes=(*notes, *found.notes),
        calibration=found.calibration,
        suites=tuple(reports),
        saved=save_evaluation(opened.run, answered, reports, opened.manifest.adapter_step) if answered else None,
        differences=tuple(_differing(answered, beside)),
    )


def _check_askable(objective: Objective, suites: Sequence[Suite], exact_match: bool, beside: Beside) -> None:
    """Refuse what a run cannot be asked, and options that would have no effect. Raises `UsageError`."""
    run, has_labels = f"a run of `[{objective.toml}]`", _has_labels(objective)
    of_labels = [suite for suite in suites if suite.asks == "label"]
    if of_labels and objective.answers != "labels":
        what = f"{run} gives texts no labels, which the suite `{of_labels[0].title}` measures"
        raise UsageError(Problem("--suite", what, "leave it out"))
    if len(suites) > len(of_labels) and not objective.writes_text:
        option = "--exact-match" if exact_match else "--suite"
        what = f"{run} scores answers, and writes none" if objective.answers == "score" else f"{run} writes no text"
        raise UsageError(Problem(option, what, "leave it out"))
    if objective.generates and not objective.reward_functions and not suites:
        what = f"{run} is measured by the answers that it generates"
        raise UsageError(Problem("--exact-match", what, "add it, and give rows with answers"))
    remedy = "add `--exact-match` or `--suite`" if objective.writes_text else "leave it out"
    if beside.systems and not suites and not has_labels:
        what = f"{run} is compared with others only by suites"
        raise UsageError(Problem(beside.systems[0].name, what, remedy))
    if beside.show and not has_labels and not any(suite.asks == "write" for suite in suites):
        raise UsageError(Problem("--show", "there are no answers to show", remedy))


def _has_labels(objective: Objective) -> bool:
    """True for classes, several labels, scores and tags."""
    return not objective.writes_text and Preference not in objective.examples


def _measured(
    opened: Opened, rows: Sequence[Row], computing: Callable[[Opened], Compute], beside: Beside
) -> tuple[Measured, Opened]:
    """Measure a run by its objective's own metrics. Also returns the run, whose weights may be loaded by now."""
    objective = opened.manifest.recipe.objective
    if _has_labels(objective):
        if not rows or any(suite.asks == "label" and suite.asks_run_rows for suite in beside.suites):
            return Measured(reference=CONSTANT_NAME), opened
        return evaluate_labels([System(ADAPTER_NAME, opened), *beside.systems], rows, computing), opened
    if Preference in objective.examples:
        pairs = encode_pairs(opened, rows)
        trained, start = load_with_start(opened) if objective.has_reference else (load(opened), None)
        return evaluate_pairs(trained, pairs, start), trained
    if objective.reward_functions:
        trained = load(opened)
        return evaluate_rewards(trained, rows), trained
    return Measured(), opened


def _answered(
    systems: Sequence[System], suites: Sequence[Suite], rows: Sequence[Row], computing: Callable[[Opened], Compute]
) -> tuple[list[Answered], list[str]]:
    """The answers of all systems to the suites, with notes. The base of a run of labels has no head to answer with."""
    opened = systems[0].opened
    manifest = opened.manifest
    if _has_labels(manifest.recipe.objective):
        return answer_label_suites([one for one in systems if one.weights != BASE], suites, rows, computing), []
    found = answer_suites(systems, suites, lambda suite: rows_of(suite, manifest, rows), computing)
    found, leak_notes = compare_with_training(found, opened)
    found, judge_notes = judge_answers(found)
    return found, [*leak_notes, *judge_notes]


def _differing(answered: Sequence[Answered], beside: Beside) -> list[Differing]:
    """The items to show: those that run and base answer differently, or with labels run and first other system."""
    if not beside.show:
        return []
    if BASE_NAME in answered[-1].answers:
        return differing(answered, ADAPTER_NAME, BASE_NAME, beside.show)
    others = [name for name in answered[-1].answers if name != ADAPTER_NAME]
    if not others:
        what = "the run recorded no constant answer to compare with"
        raise UsageError(Problem("--show", what, "leave it out, or name another run"))
    return differing(answered, ADAPTER_NAME, others[0], beside.show)


def _unnamed(
    manifest: Manifest, exact_match: bool, asked: Sequence[Suite], rows: Sequence[Row]
) -> tuple[list[Suite], tuple[str, ...]]:
    """The suites to ask beside those that are named, and a note if rows of another format leave them out.

    Without rows, the loss is not measured unasked.
    """
    named = {suite.title for suite in asked}
    usual = [suite for suite in usual_suites(manifest.recipe, exact_match) if suite.title not in named]
    if not asked or not usual:
        return usual, ()
    if not rows:
        return [suite for suite in usual if suite.asks != "loss"], ()
    if not any(suite.asks_run_rows for suite in asked):
        return usual, ()
    try:
        format_of(manifest).example(rows[0].values)
    except RowFaultError as fault:
        left = listed([suite.title for suite in usual])
        return [], (f"left out, because the rows are not in the format of the run ({fault.what}): {left}",)
    return usual, ()


def usual_suites(recipe: Recipe, exact_match: bool) -> list[Suite]:
    """The suites without a name of their own: the loss of text that is trained on, and exact match if asked for."""
    objective = recipe.objective
    learns_answers = objective.writes_text and not objective.generates and Preference not in objective.examples
    suites: list[Suite] = [HeldOutSuite()] if learns_answers else []
    if exact_match:
        suites.append(recipe.evaluation.as_suite())
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
