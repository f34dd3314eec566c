"""Evaluation of a finished run on its own evaluation rows or on others of their kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.engine.dataset import IGNORED
from lora_ns.engine.metrics import classification_metrics
from lora_ns.engine.model import computing
from lora_ns.engine.render import Renderer
from lora_ns.errors import DataError, Problem, UsageError
from lora_ns.formats import RowFaultError
from lora_ns.recipe.generation import Generation
from lora_ns.rows import Row, told
from lora_ns.services.answers import Answers
from lora_ns.services.infer import infer
from lora_ns.services.trained import Trained, format_of


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured, on how many rows."""

    rows: int
    metrics: dict[str, float]


def evaluate(trained: Trained, rows: Sequence[Row] | None, exact_match: bool) -> EvaluateResult:
    """Loss, and exact match on request, for text; accuracy, F1, precision and recall for classes.

    Args:
        trained: the run's model.
        rows: rows with answers; None for those that the run kept.
        exact_match: whether to write and compare answers.

    Raises:
        UsageError: if the run kept no rows and none are given.
        DataError: with the rows that cannot be read.
    """
    if rows is None:
        rows = [
            Row(f"evaluation row {number}", row) for number, row in enumerate(trained.manifest.data.eval_rows, start=1)
        ]
    if not rows:
        raise UsageError(Problem(str(trained.run.path), "the run kept no evaluation rows", "give a file by `--data`"))
    if trained.manifest.recipe.task_type == "SEQ_CLS":
        return EvaluateResult(len(rows), _classes(trained, rows))
    metrics = {"loss": _loss(trained, rows)}
    if exact_match:
        try:
            answers = Answers.of(trained.manifest, trained.model, trained.tokenizer, [row.values for row in rows])
        except RowFaultError as fault:
            raise DataError(Problem("", fault.what, fault.remedy)) from None
        metrics |= answers.score()
    return EvaluateResult(len(rows), metrics)


def _classes(trained: Trained, rows: Sequence[Row]) -> dict[str, float]:
    form = format_of(trained.manifest)
    numbers = {name: number for number, name in enumerate(trained.manifest.labels)}
    expected, problems = [], []
    for row in rows:
        try:
            label = form.answer(row.values)
            if label not in numbers:
                raise RowFaultError(f"class `{label}` is not among those trained", f"known: {', '.join(numbers)}")
            expected.append(numbers[label])
        except RowFaultError as fault:
            problems.append(Problem(row.where, fault.what, fault.remedy))
    if problems:
        raise DataError(told(problems))
    predicted = [numbers[row["output"]] for row in infer(trained, rows, Generation(batch_size=32)).rows]
    return classification_metrics(predicted, expected, len(numbers))


def _loss(trained: Trained, rows: Sequence[Row]) -> float:
    """Mean loss over all trained tokens of all rows, one row at a time: no padding, no batch to depend on."""
    import torch

    form = format_of(trained.manifest)
    renderer = Renderer(trained.tokenizer, trained.manifest.stop_token_ids, trained.manifest.recipe.sft.train_on)
    device = next(trained.model.parameters()).device
    total, tokens = 0.0, 0
    limit = trained.manifest.recipe.sft.max_seq_length
    for row in rows:
        rendered = _rendered(renderer, form, row)
        ids = torch.tensor([rendered[0][:limit]], device=device)
        labels = torch.tensor([rendered[1][:limit]], device=device)
        with torch.no_grad(), computing(device.type, trained.manifest.plan.dtype.value):
            logits = trained.model(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :].float()
        total += float(
            torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum")
        )
        tokens += int((labels[0, 1:] != IGNORED).sum())
    return total / max(1, tokens)


def _rendered(renderer: Renderer, form: Any, row: Row) -> tuple[list[int], list[int]]:
    try:
        rendered = renderer.example(form.example(row.values))
    except RowFaultError as fault:
        raise DataError(Problem(row.where, fault.what, fault.remedy)) from None
    labels = [token if learn else IGNORED for token, learn in zip(rendered.input_ids, rendered.trained, strict=True)]
    return rendered.input_ids, labels
