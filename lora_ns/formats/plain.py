"""Formats of plain text: prompts with completions, and raw text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Columns, Example, PromptCompletion, RawText, RowFaultError, Values
from lora_ns.formats.cells import (
    answered,
    cells_of,
    column_of,
    fill,
    fill_first,
    fill_single_field,
    template_columns,
    used_columns,
)


@dataclass(frozen=True)
class PlainPromptCompletion:
    """Plain text from `prompt` and `completion` columns, or from two templates."""

    name: ClassVar[str] = "prompt-completion"
    makes: ClassVar[tuple[type[Example], ...]] = (PromptCompletion,)
    reads: ClassVar[tuple[str, ...]] = ("prompt", "completion")
    aliases: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt", "completion"),)
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ("prompt_template", "fallback_prompt_templates", "completion_template")

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """Columns of the templates, or prompt and completion."""
        columns = self.columns
        templates = {"prompt": columns.prompt_template, "completion": columns.completion_template}
        sides = [name for name, template in templates.items() if template is None]
        named = template_columns(*columns.prompt_templates, columns.completion_template)
        return [*(name for name in named if column_of(name, names) in names), *used_columns(columns, sides, names)]

    def example(self, values: Values) -> PromptCompletion:
        """The prompt with its completion."""
        return PromptCompletion(self._prompt(values), self.answer(values))

    def prompt(self, values: Values) -> PromptCompletion:
        """The prompt without its completion."""
        return PromptCompletion(self._prompt(values))

    def question(self, text: str) -> Values:
        """A row whose prompt, or the only field of the prompt template, is the text."""
        if self.columns.prompt_template is not None:
            return fill_single_field(self.columns.prompt_templates, text)
        return {self.columns.columns.get("prompt", "prompt"): text}

    def answer(self, values: Values) -> str:
        """The completion."""
        return answered(self._side("completion", values))

    def _prompt(self, values: Values) -> str:
        templates = self.columns.prompt_templates
        return fill_first(templates, values) if templates else self._side("prompt", values)

    def _side(self, name: str, values: Values) -> str:
        template: str | None = getattr(self.columns, f"{name}_template")
        return cells_of(values, self.columns).text(name) if template is None else fill(template, values)


@dataclass(frozen=True)
class PlainText:
    """Raw text from a `text` column, with every token in the loss, as in pretraining."""

    name: ClassVar[str] = "text"
    makes: ClassVar[tuple[type[Example], ...]] = (RawText,)
    reads: ClassVar[tuple[str, ...]] = ("text",)
    aliases: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = (("text",),)
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns

    def used(self, names: Collection[str]) -> list[str]:
        """The text column."""
        return used_columns(self.columns, self.reads, names)

    def example(self, values: Values) -> RawText:
        """The text, which must not be empty."""
        text = self._text(values)
        if not text.strip():
            raise RowFaultError("the text is empty", "there is nothing to learn from it; remove the row")
        return RawText(text)

    def prompt(self, values: Values) -> PromptCompletion:
        """The text as a prompt to continue."""
        return PromptCompletion(self._text(values))

    def question(self, text: str) -> Values:
        """A row with the text."""
        return {self.columns.columns.get("text", "text"): text}

    def answer(self, values: Values) -> str:  # noqa: ARG002 -- the signature is the protocol's
        """Always raises `RowFaultError`: raw text has no answer."""
        raise RowFaultError("raw text has no answer", "remove `evaluation.exact_match`")

    def _text(self, values: Values) -> str:
        return cells_of(values, self.columns).text("text")
