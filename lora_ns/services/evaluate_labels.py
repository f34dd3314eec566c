"""Evaluation of a run of labels beside the constant answer that was best on its training rows, and other such runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lora_ns.answers.label import baseline_kind, baseline_of
from lora_ns.answers.opened import Opened
from lora_ns.answers.work import Compute
from lora_ns.data.rows import Row
from lora_ns.formats import ProblemType
from lora_ns.objectives.baselines import Baseline, label_metrics
from lora_ns.services.evaluate_suites import ADAPTER_NAME, CONSTANT_NAME, Answered, System, answer_suites, rows_of
from lora_ns.services.measured import Measured
from lora_ns.suites import GlueSuite, Suite
from lora_ns.suites.labels import suite_of


def evaluate_labels(systems: Sequence[System], rows: Sequence[Row], computing: Callable[[Opened], Compute]) -> Measured:
    """Label the rows with each system, and measure the first one.

    Args:
        systems: the run, then what it is compared with.
        rows: rows with labels.
        computing: makes the function that computes the tasks of a run.

    Raises:
        DataError: names the rows that cannot be read.
    """
    manifest = systems[0].opened.manifest
    kind, baseline = baseline_kind(manifest), baseline_of(manifest)
    suite = suite_of(kind, manifest.labels)
    (found,) = answer_suites(systems, [suite], lambda _: rows, computing)
    expected = [_as_trained(kind, manifest.labels, gold.label) for gold in found.golds]
    metrics = label_metrics(kind, manifest.labels, found.answers[ADAPTER_NAME], expected)
    if baseline is None:
        return Measured(metrics, answered=(found,), reference=CONSTANT_NAME)
    reached = baseline.measure(expected)
    return Measured(
        metrics,
        answered=(_with_constant(found, baseline),),
        reference=CONSTANT_NAME,
        baseline=reached,
        notes=tuple(baseline.unbeaten(metrics, reached)),
    )


def answer_label_suites(
    systems: Sequence[System], suites: Sequence[Suite], rows: Sequence[Row], computing: Callable[[Opened], Compute]
) -> list[Answered]:
    """Ask suites of labels, with the constant answers beside the systems.

    Args:
        systems: the run, then what it is compared with.
        suites: the suites.
        rows: rows for suites without a file.
        computing: makes the function that computes the tasks of a run.

    Raises:
        UsageError: if a suite has no rows.
        DataError: names the rows that cannot be asked; the first one, if the run labels something else.
    """
    manifest = systems[0].opened.manifest
    baseline = baseline_of(manifest)
    found = answer_suites(systems, suites, lambda suite: rows_of(suite, manifest, rows), computing)
    return [one if baseline is None else _with_constant(one, baseline) for one in found]


def _as_trained(kind: ProblemType | None, labels: Sequence[str], label: Any) -> Any:
    """A label as in training rows: a score, a class id, a 0 or 1 for each label, or tag ids."""
    if kind == "regression":
        return label
    if kind == "multi_label_classification":
        return [float(name in label) for name in labels]
    return [labels.index(tag) for tag in label] if kind is None else labels.index(label)


def _with_constant(found: Answered, baseline: Baseline) -> Answered:
    """Add the constant answers as a system; each figure has the constant that was best by it."""
    golds, constants = [gold.label for gold in found.golds], baseline.constants
    if isinstance(found.suite, GlueSuite):
        constants = found.suite.constants(constants, baseline.labels)
    by_figure = {
        name: baseline.answers(constants[name], golds) for name in found.measures(ADAPTER_NAME) if name in constants
    }
    if not by_figure:
        return found
    answers = {**found.answers, CONSTANT_NAME: next(iter(by_figure.values()))}
    return replace(found, answers=answers, by_figure={CONSTANT_NAME: by_figure})
