"""Evaluation of a finished run, on its own evaluation rows or on other rows of the same format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_ns.answers.exact_match import Questions
from lora_ns.answers.label import baseline_of
from lora_ns.answers.opened import Opened, format_of, kept_rows, load, load_with_start
from lora_ns.answers.work import Compute, Task, compute_here, in_turn, writing
from lora_ns.data.encode_text import split_text
from lora_ns.data.find_labels import check_named
from lora_ns.data.loss_mask import Rendered
from lora_ns.data.render import make_renderer
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Preference, RawText, TextClassification, TokenClassification
from lora_ns.objectives import TextObjective
from lora_ns.objectives.calibration import Calibration
from lora_ns.objectives.metrics import classification_metrics, multi_label_metrics, regression_metrics, tag_metrics
from lora_ns.objectives.targets import Targets
from lora_ns.recipe.generation import Generation
from lora_ns.services.evaluate_pairs import encode_pairs, evaluate_pairs
from lora_ns.services.evaluate_rewards import evaluate_rewards
from lora_ns.services.infer import infer


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


def evaluate(
    opened: Opened,
    rows: Sequence[Row] | None,
    exact_match: bool,
    computing: Callable[[Opened], Compute] = compute_here,
) -> EvaluateResult:
    """Evaluate a run: loss, and optionally exact match, for text; the usual metrics for pairs, labels, scores and tags.

    Args:
        opened: the run.
        rows: rows with answers; None for the evaluation rows that the run stores.
        exact_match: whether to generate answers and compare them.
        computing: makes the function that computes the tasks of a run; by default, in this process.

    Raises:
        UsageError: if no rows are given and the run stores none.
        DataError: names the rows that cannot be read.
    """
    manifest = opened.manifest
    rows = kept_rows(manifest) if rows is None else rows
    if not rows:
        raise UsageError(Problem(str(opened.run.path), "the run has no evaluation rows", "give a file with `--data`"))
    of_pairs = Preference in manifest.recipe.objective.examples
    if not manifest.recipe.objective.writes_text and not of_pairs:
        return _labels(opened, rows, computing(opened))
    if exact_match and not manifest.recipe.objective.writes_text:
        raise UsageError(Problem("--exact-match", "a reward model scores answers and writes none", "leave it out"))
    if manifest.recipe.objective.generates and not manifest.recipe.objective.reward_functions and not exact_match:
        what = f"a run of `[{manifest.recipe.objective.toml}]` is measured by the answers that it generates"
        raise UsageError(Problem("--exact-match", what, "add it, and give rows with answers"))
    questions = Questions.of(manifest, opened.tokenizer, rows, opened.vocabulary()) if exact_match else None
    tasks = [writing(questions.prompts, manifest.recipe.generation)] if questions else []
    found = _measured(opened, rows, tasks, computing)
    if questions:
        found.metrics.update(questions.score([answer["text"] for answer in found.answers[0]]))
    key = manifest.recipe.objective.key("max_seq_length")
    notes = (f"{found.truncated:,} rows are longer than `{key}` and were truncated",) if found.truncated else ()
    return EvaluateResult(len(rows), found.metrics, found.truncated, notes=notes, calibration=found.calibration)


@dataclass(frozen=True)
class _Measured:
    """Metrics of a run that generates text or ranks pairs, with the results of further tasks."""

    metrics: dict[str, float]
    truncated: int
    answers: list[list[Any]]
    calibration: Calibration | None = None


def _measured(
    opened: Opened, rows: Sequence[Row], tasks: Sequence[Task], computing: Callable[[Opened], Compute]
) -> _Measured:
    """Measure a run by its objective, and compute tasks with the same weights."""
    objective = opened.manifest.recipe.objective
    if Preference in objective.examples:
        pairs = encode_pairs(opened, rows)
        trained, start = load_with_start(opened) if objective.has_reference else (load(opened), None)
        of_pairs = evaluate_pairs(trained, pairs, start)
        answers = computing(trained)(tasks) if tasks else []
        return _Measured(of_pairs.metrics, pairs.tally.truncated, answers, of_pairs.calibration)
    if objective.reward_functions:
        trained = load(opened)
        rewarded = evaluate_rewards(trained, rows)
        return _Measured(rewarded.metrics, rewarded.truncated, computing(trained)(tasks) if tasks else [])
    if objective.generates:
        return _Measured({}, 0, computing(opened)(tasks))
    sequences, limit = _sequences(opened, rows), objective.max_seq_length
    losses, *answers = computing(opened)([_loss_task(sequences, limit), *tasks])
    return _Measured({"loss": _mean(losses)}, sum(len(one.input_ids) > limit for one in sequences), answers)


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


def _sequences(opened: Opened, rows: Sequence[Row]) -> list[Rendered]:
    """The token sequences whose loss is measured. Raises `DataError`."""
    form, objective = format_of(opened.manifest), opened.manifest.recipe.objective
    assert isinstance(objective, TextObjective)
    renderer = make_renderer(opened.tokenizer, opened.manifest.stop_token_ids, objective, opened.vocabulary())
    rendered = for_each(rows, lambda row: objective.sequences(form.example(row.values), renderer))
    whole = [sequence for row in rendered for sequence in row]
    if objective.on_overflow == "split" and RawText in form.makes:
        return [piece for sequence in whole for piece in split_text(sequence, objective.max_seq_length)]
    return whole


def _loss_task(sequences: Sequence[Rendered], limit: int) -> Task:
    """A task that computes the loss of one sequence at a time, so that it depends on no padding and no batch."""
    return in_turn("loss", [[one.input_ids[:limit], one.labels[:limit]] for one in sequences], 1)


def _mean(losses: Sequence[Sequence[float]]) -> float:
    """Mean loss per labelled token over all rows, summed in their order."""
    return sum(loss for loss, _ in losses) / max(1, sum(tokens for _, tokens in losses))
