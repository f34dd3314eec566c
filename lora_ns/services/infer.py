"""Inference: rows in, the same rows with an answer, a label or tags out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.engine.render import make_renderer
from lora_ns.errors import DataError, Problem
from lora_ns.formats import RowFaultError
from lora_ns.recipe.generation import Generation
from lora_ns.rows import Row, for_each
from lora_ns.rundir import Manifest
from lora_ns.services.labels import label_rows
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
    """Answer, label or tag every row.

    Args:
        trained: the run's model.
        rows: rows of the kind that the run was trained on; an answer in them is left aside.
        generation: how to write.
        on_answers: told the number of rows that are done.

    Raises:
        DataError: with the rows that cannot be rendered or leave no room for an answer; nothing is answered then.
    """
    if trained.manifest.recipe.task_type != "CAUSAL_LM":
        return InferResult(tuple(label_rows(trained, rows, generation.batch_size, on_answers)))
    asked = prompts(trained, rows)
    writer = make_writer(trained.manifest, trained.model, trained.tokenizer)
    answers = writer.answer(asked, generation, on_answers)
    return InferResult(
        tuple(
            {
                **_given(trained.manifest, row),
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
    "TOKEN_CLS": ("entities",),
}
"""The columns that answers are written to."""


def check_columns(manifest: Manifest, rows: Sequence[Row]) -> None:
    """Refuse rows whose own columns an answer would replace. Raises `DataError`."""
    written = WRITTEN[manifest.recipe.task_type]
    for row in rows:
        own = _given(manifest, row)
        if len(own) < len(row.values):
            raise DataError(Problem(row.where, "column `expected` would be replaced by `output`", "rename it"))
        if taken := [name for name in written if name in own]:
            what = f"column `{taken[0]}` would be replaced by what the model says"
            raise DataError(Problem(row.where, what, "rename it"))


def _given(manifest: Manifest, row: Row) -> Mapping[str, Any]:
    """What a row has beside the answer; Alpaca's rows have their own where the model's is to stand."""
    if manifest.data.format != "alpaca":
        return row.values
    return {("expected" if name == "output" else name): value for name, value in row.values.items()}


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
