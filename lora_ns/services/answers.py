"""Exact match: answers to evaluation prompts, held against the expected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.engine.generate import Writer
from lora_ns.engine.metrics import exact_match, is_match
from lora_ns.engine.render import make_renderer
from lora_ns.recipe.recipe import Recipe
from lora_ns.rows import Row, for_each
from lora_ns.rundir import Manifest
from lora_ns.services.trained import format_of, kept_rows, make_writer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Questions:
    """Prompts with their expected answers."""

    recipe: Recipe
    prompts: Sequence[list[int]]
    expected: Sequence[str]
    groups: Sequence[Any] | None

    @classmethod
    def of(cls, manifest: Manifest, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Questions:
        """Those of a run's evaluation rows, or of others of their kind. Raises `DataError`."""
        recipe = manifest.recipe
        form = format_of(manifest)
        chosen = rows[: recipe.evaluation.max_samples]
        renderer = make_renderer(tokenizer, manifest.stop_token_ids, manifest.recipe.sft)
        group = recipe.evaluation.group_by
        return cls(
            recipe,
            for_each(chosen, lambda row: renderer.prompt(form.prompt(row.values))),  # type: ignore[arg-type]
            for_each(chosen, lambda row: form.answer(row.values)),
            [row.values.get(group) for row in chosen] if group else None,
        )

    def score(self, answers: Sequence[str]) -> dict[str, float]:
        """Exact match over all rows and over each group."""
        pattern = self.recipe.evaluation.answer_pattern
        matches = [is_match(answer, expected, pattern) for answer, expected in zip(answers, self.expected, strict=True)]
        return exact_match(matches, self.groups)


@dataclass(frozen=True)
class Answers:
    """The questions of a run in training, and the model that is asked."""

    questions: Questions
    writer: Writer

    @classmethod
    def of(cls, manifest: Manifest, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> Answers:
        """The evaluation of a run over its own rows. Raises `DataError`."""
        return cls(Questions.of(manifest, tokenizer, kept_rows(manifest)), make_writer(manifest, model, tokenizer))

    def score(self) -> dict[str, float]:
        """Exact match of what the model writes now."""
        written = self.writer.answer(self.questions.prompts, self.questions.recipe.generation)
        return self.questions.score([answer.text for answer in written])
