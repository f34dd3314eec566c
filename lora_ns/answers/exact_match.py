"""Exact match: generated answers compared with the expected ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_ns.answers.generate import Writer, up_to_stop, written_text
from lora_ns.answers.opened import format_of, kept_rows, make_writer
from lora_ns.data.render import Renderer, make_renderer
from lora_ns.data.rows import Row, for_each
from lora_ns.errors import DataError, Problem
from lora_ns.formats import EndlessRowError, Format, expected_of
from lora_ns.model.vocabulary import Vocabulary
from lora_ns.objectives.metrics import exact_match, extract_answer, is_match
from lora_ns.objectives.prompt_trainer import Sample
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.manifest import Manifest
from lora_ns.safety.deadline import OverrunError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

SAMPLES = 4
"""Answers of each evaluation in training that are kept to be read."""


@dataclass(frozen=True)
class Questions:
    """Prompts with their expected answers."""

    recipe: Recipe
    prompts: Sequence[list[int]]
    expected: Sequence[str]
    """The part of each expected answer that is compared."""
    groups: Sequence[Any] | None
    rendered: Sequence[str] = ()
    """The compared part of each answer in the form it is learned in, with text that the chat template adds."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        vocabulary: Vocabulary | None = None,
    ) -> Questions:
        """The questions of a run's evaluation rows, or of other rows of the same format. Raises `DataError`."""
        recipe = manifest.recipe
        form = format_of(manifest)
        chosen = rows[: recipe.evaluation.max_samples]
        renderer = make_renderer(tokenizer, manifest.stop_token_ids, manifest.recipe.objective.rendering, vocabulary)
        group, pattern = recipe.evaluation.group_by, recipe.evaluation.answer_pattern
        learned = for_each(chosen, lambda row: _learned(renderer, form, row, pattern))
        return cls(
            recipe,
            [prompt for prompt, _ in learned],
            for_each(chosen, lambda row: _expected(form.answer(row.values), pattern)),
            [row.values.get(group) for row in chosen] if group else None,
            [answer for _, answer in learned],
        )

    def score(self, answers: Sequence[str]) -> dict[str, float]:
        """Exact match over all rows and over each group. Raises `DataError` if the pattern takes too long."""
        pattern = self.recipe.evaluation.answer_pattern
        matches = []
        rendered = self.rendered or self.expected
        for number, (answer, *expected) in enumerate(zip(answers, self.expected, rendered, strict=True), start=1):
            try:
                found = extract_answer(answer, pattern)
            except OverrunError as error:
                what = f"`evaluation.answer_pattern` {error} on the answer generated for evaluation row {number}"
                raise DataError(Problem("", what, SIMPLER_PATTERN)) from None
            matches.append(any(is_match(found, one) for one in expected))
        return exact_match(matches, self.groups)


SIMPLER_PATTERN = "avoid nested repetitions such as `(a+)+`"


def _expected(answer: str, pattern: str | None) -> str:
    """The part of an expected answer that is compared. Raises `RowFaultError`."""
    try:
        return extract_answer(answer, pattern)
    except OverrunError as error:
        raise EndlessRowError(f"`evaluation.answer_pattern` {error} on its answer", SIMPLER_PATTERN) from None


def _learned(renderer: Renderer, form: Format, row: Row, pattern: str | None) -> tuple[list[int], str]:
    """The prompt of a row, and the compared part of the answer that is learned after it; empty if none is learned.

    Raises:
        RowFaultError: if the row cannot be rendered, or the pattern takes too long on its answer.
    """
    prompt = renderer.prompt(form.prompt(row.values))  # type: ignore[arg-type]
    whole = renderer.examples(expected_of(form.example(row.values)))[-1].input_ids  # type: ignore[arg-type]
    answer = whole[len(prompt) :] if whole[: len(prompt)] == prompt else []
    text = written_text(renderer.tokenizer, up_to_stop(answer, renderer.stops), renderer.stops)
    return prompt, _expected(text, pattern)


@dataclass(frozen=True)
class Answers:
    """The questions of a run that is training, with the model that answers them."""

    questions: Questions
    writer: Writer

    @classmethod
    def of(cls, manifest: Manifest, model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> Answers:
        """The exact-match evaluation of a run over its own evaluation rows. Raises `DataError`."""
        return cls(Questions.of(manifest, tokenizer, kept_rows(manifest)), make_writer(manifest, model, tokenizer))

    def samples(self) -> list[Sample]:
        """Greedy answers of the current model to the first prompts; no random number is drawn."""
        generation = self.questions.recipe.generation.model_copy(update={"do_sample": False})
        prompts = self.questions.prompts[:SAMPLES]
        written = self.writer.answer(prompts, generation)
        texts = self.writer.tokenizer.batch_decode(prompts)
        return [Sample(text, answer.text, {}) for text, answer in zip(texts, written, strict=True)]

    def score(self) -> dict[str, float]:
        """Exact match of the model's current answers."""
        written = self.writer.answer(self.questions.prompts, self.questions.recipe.generation)
        return self.questions.score([answer.text for answer in written])
