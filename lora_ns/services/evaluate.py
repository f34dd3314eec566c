"""Evaluation of a finished run on its own evaluation rows or on others of their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.engine.dataset import split_text
from lora_ns.engine.metrics import classification_metrics, multi_label_metrics, regression_metrics, tag_metrics
from lora_ns.engine.model import computing
from lora_ns.engine.render import IGNORED, make_renderer
from lora_ns.engine.targets import Targets
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import TextClassification, TokenClassification
from lora_ns.recipe.generation import Generation
from lora_ns.rows import Row, for_each
from lora_ns.services.answers import Answers
from lora_ns.services.infer import infer
from lora_ns.services.trained import Trained, format_of, kept_rows


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured, on how many rows."""

    rows: int
    metrics: dict[str, float]
    truncated: int = 0
    """Rows of text that were longer than `sft.max_seq_length`: their end was not measured."""


def evaluate(trained: Trained, rows: Sequence[Row] | None, exact_match: bool) -> EvaluateResult:
    """Loss, and exact match on request, for text; for labels, scores and tags what is usual for each.

    Args:
        trained: the run's model.
        rows: rows with answers; None for those that the run kept.
        exact_match: whether to write and compare answers.

    Raises:
        UsageError: if the run kept no rows and none are given.
        DataError: with the rows that cannot be read.
    """
    rows = kept_rows(trained.manifest) if rows is None else rows
    if not rows:
        raise UsageError(Problem(str(trained.run.path), "the run kept no evaluation rows", "give a file by `--data`"))
    if trained.manifest.recipe.task_type != "CAUSAL_LM":
        return EvaluateResult(len(rows), _labels(trained, rows))
    loss, truncated = _loss(trained, rows)
    metrics = {"loss": loss}
    if exact_match:
        metrics |= Answers.of(trained.manifest, trained.model, trained.tokenizer, rows).score()
    return EvaluateResult(len(rows), metrics, truncated)


def _labels(trained: Trained, rows: Sequence[Row]) -> dict[str, float]:
    form = format_of(trained.manifest)
    targets = Targets(trained.manifest.labels)

    def said() -> list[dict[str, Any]]:
        return list(infer(trained, rows, Generation(batch_size=32)).rows)

    if isinstance(form, TokenClassification):
        labels = targets.labels
        numbers = for_each(rows, lambda row: [targets.number(tag, "tag") for tag in form.example(row.values).tags])
        return tag_metrics([row["tags"] for row in said()], [[labels[number] for number in row] for row in numbers])
    assert isinstance(form, TextClassification)
    expected: list[Any] = for_each(rows, lambda row: targets.of(form.label(row.values)))
    found = [row["output"] for row in said()]
    if form.problem_type == "regression":
        return regression_metrics(found, expected)
    if form.problem_type == "multi_label_classification":
        return multi_label_metrics([targets.of(tuple(labels)) for labels in found], expected)  # type: ignore[misc]
    return classification_metrics([targets.number(label) for label in found], expected, len(targets.labels))


def _loss(trained: Trained, rows: Sequence[Row]) -> tuple[float, int]:
    """Mean loss over all trained tokens of all rows, and the number of rows that were cut.

    One row at a time: no padding, no batch to depend on.
    """
    import torch

    form = format_of(trained.manifest)
    renderer = make_renderer(trained.tokenizer, trained.manifest.stop_token_ids, trained.manifest.recipe.sft)
    device = next(trained.model.parameters()).device
    total, tokens, cut = 0.0, 0, 0
    sft = trained.manifest.recipe.sft
    rendered_rows = for_each(rows, lambda row: renderer.examples(form.example(row.values)))  # type: ignore[arg-type]
    sequences = (sequence for row in rendered_rows for sequence in row)
    if sft.on_overflow == "split" and form.name == "text":
        sequences = (piece for sequence in sequences for piece in split_text(sequence, sft.max_seq_length))
    for rendered in sequences:
        ids = torch.tensor([rendered.input_ids[: sft.max_seq_length]], device=device)
        labels = torch.tensor([rendered.labels[: sft.max_seq_length]], device=device)
        with torch.no_grad(), computing(device.type, trained.manifest.plan.dtype.value):
            logits = trained.model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :].float()
        total += float(
            torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum")
        )
        tokens += int((labels[0, 1:] != IGNORED).sum())
        cut += len(rendered.input_ids) > sft.max_seq_length
    return total / max(1, tokens), cut
