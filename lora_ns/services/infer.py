"""Inference: rows in, the same rows with an answer or a class out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.engine.model import computing
from lora_ns.engine.render import encode_labelled, make_renderer
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Labelled, RowFaultError
from lora_ns.recipe.generation import Generation
from lora_ns.rows import Row, for_each
from lora_ns.rundir import Manifest
from lora_ns.services.trained import Trained, format_of, make_writer, max_positions


@dataclass(frozen=True)
class InferResult:
    """The rows in their order, each with what the model said."""

    rows: tuple[dict[str, Any], ...]


def as_row(trained: Trained, text: str) -> Row:
    """The row that a bare text stands for. Raises `DataError` where one text is not enough."""
    try:
        return Row("input", format_of(trained.manifest).question(text))
    except RowFaultError as fault:
        raise DataError(Problem("input", fault.what, fault.remedy)) from None


def infer(
    trained: Trained, rows: Sequence[Row], generation: Generation, on_answers: Callable[[int], None] = lambda _: None
) -> InferResult:
    """Answer or classify every row.

    Args:
        trained: the run's model.
        rows: rows of the kind that the run was trained on; an answer in them is left aside.
        generation: how to write.
        on_answers: told the number of rows that are done.

    Raises:
        DataError: with the rows that cannot be rendered or leave no room for an answer; nothing is answered then.
    """
    if trained.manifest.recipe.task_type == "SEQ_CLS":
        return InferResult(tuple(_classify(trained, rows, generation.batch_size, on_answers)))
    asked = prompts(trained, rows)
    writer = make_writer(trained.manifest, trained.model, trained.tokenizer)
    answers = writer.answer(asked, generation, on_answers)
    return InferResult(
        tuple(
            {
                **(_with_expected(row.values) if trained.manifest.data.format == "alpaca" else row.values),
                "output": answer.text,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": answer.prompt_tokens,
                "output_tokens": answer.output_tokens,
            }
            for row, answer in zip(rows, answers, strict=True)
        )
    )


WRITTEN = {
    "CAUSAL_LM": ("output", "finish_reason", "prompt_tokens", "output_tokens"),
    "SEQ_CLS": ("output", "score", "scores"),
}
"""The columns that answers are written to."""


def check_columns(manifest: Manifest, rows: Sequence[Row]) -> None:
    """Refuse rows whose own columns an answer would replace. Raises `DataError`."""
    written = WRITTEN[manifest.recipe.task_type]
    for row in rows:
        own = _with_expected(row.values) if manifest.data.format == "alpaca" else row.values
        if len(own) < len(row.values):
            raise DataError(Problem(row.where, "column `expected` would be replaced by `output`", "rename it"))
        if taken := [name for name in written if name in own]:
            what = f"column `{taken[0]}` would be replaced by what the model says"
            raise DataError(Problem(row.where, what, "rename it"))


def _with_expected(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Alpaca's rows have their own answer where the model's is to stand."""
    return {("expected" if name == "output" else name): value for name, value in values.items()}


def prompts(trained: Trained, rows: Sequence[Row]) -> list[list[int]]:
    """The tokens that the model is asked with, row by row. Raises `DataError`."""
    form = format_of(trained.manifest)
    renderer = make_renderer(trained.tokenizer, trained.manifest.stop_token_ids, trained.manifest.recipe.sft)
    room = max_positions(trained.model)

    def prompt_of(row: Row) -> list[int]:
        prompt = renderer.prompt(form.prompt(row.values))  # type: ignore[arg-type]
        if not prompt:
            raise RowFaultError("the prompt is empty", "give it some text")
        if room and len(prompt) >= room:
            raise RowFaultError(f"the prompt has {len(prompt)} tokens, and the model {room} positions", "shorten it")
        return prompt

    return for_each(rows, prompt_of)


def _classify(
    trained: Trained, rows: Sequence[Row], batch_size: int, on_answers: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    inputs = _classifier_inputs(trained, rows)
    for start in range(0, len(rows), batch_size):
        scores = class_scores(trained, inputs[start : start + batch_size])
        for row, score in zip(rows[start : start + batch_size], scores, strict=True):
            named = dict(zip(trained.manifest.labels, score, strict=True))
            best = max(named, key=lambda name: named[name])
            yield {**row.values, "output": best, "score": named[best], "scores": named}
        on_answers(min(start + batch_size, len(rows)))


def _classifier_inputs(trained: Trained, rows: Sequence[Row]) -> list[dict[str, list[int]]]:
    form = format_of(trained.manifest)
    limit = trained.manifest.recipe.classification.max_seq_length

    def inputs_of(row: Row) -> dict[str, list[int]]:
        example = form.prompt(row.values)
        assert isinstance(example, Labelled)
        return encode_labelled(trained.tokenizer, example, limit)

    return for_each(rows, inputs_of)


def class_scores(trained: Trained, inputs: Sequence[Mapping[str, list[int]]]) -> list[list[float]]:
    """Probabilities of the classes, (rows, classes), of inputs that are padded here."""
    import torch

    trained.model.eval()
    trained.model.config.pad_token_id = trained.tokenizer.pad_token_id
    device = next(trained.model.parameters()).device
    batch = trained.tokenizer.pad([dict(row) for row in inputs], return_tensors="pt").to(device)
    with torch.no_grad(), computing(device.type, trained.manifest.plan.dtype.value):
        logits = trained.model(**batch).logits
    probabilities: list[list[float]] = logits.float().softmax(-1).tolist()
    return probabilities
