"""What a run makes of a conversation that someone types, as a Modelfile of Ollama has to make it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lora_ns.answers.opened import Opened, format_of, kept_rows
from lora_ns.data.render import Renderer, make_renderer
from lora_ns.errors import Problem, UsageError
from lora_ns.exports.go_template import Turns
from lora_ns.exports.ollama_template import REMEDY, TemplateParts, parts_of
from lora_ns.formats import Conversation, Message, PromptCompletion, RawText, RowFaultError
from lora_ns.formats.base import Example, Values

_MARK = "loransmark"
"""A word of letters only, which appears in no template."""

_SYSTEM = "Answer briefly, in {JSON}."
_QUESTIONS = ("What is 2 + 2?", 'Say "{{ .Prompt }}" twice:\n\n  - first\n  - then', "東京 is\twhere?")
_ANSWERS = ("4", 'He said """yes""" \\o/\n{"a": 1}')

CHATS: tuple[Turns, ...] = tuple(
    (*system, *turns)
    for system in ((), (("system", _SYSTEM),))
    for turns in (
        *((("user", question),) for question in _QUESTIONS),
        (("user", _QUESTIONS[1]), ("assistant", _ANSWERS[1]), ("user", _QUESTIONS[2])),
        (
            ("user", _QUESTIONS[0]),
            ("assistant", _ANSWERS[0]),
            ("user", _QUESTIONS[2]),
            ("assistant", _ANSWERS[1]),
            ("user", _QUESTIONS[1]),
        ),
    )
)
"""Conversations that every TEMPLATE is tried with."""

_TOOL = {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}}


@dataclass(frozen=True)
class RunPrompts:
    """A run's way from what is typed to what its model reads."""

    opened: Opened

    @cached_property
    def _renderer(self) -> Renderer:
        manifest = self.opened.manifest
        rendering = manifest.recipe.objective.rendering
        return make_renderer(self.opened.tokenizer, manifest.stop_token_ids, rendering, self.opened.vocabulary())

    @cached_property
    def _asked(self) -> Example | None:
        """The prompt of a row with a mark as its question; None if a row needs more than one text."""
        form = format_of(self.opened.manifest)
        try:
            return form.prompt(form.question(_MARK))
        except RowFaultError:
            return None

    @cached_property
    def _shape(self) -> Example:
        """The prompt of a row with a mark as what is typed."""
        if self._asked is not None:
            return self._asked
        is_plain = {PromptCompletion, RawText} & {*format_of(self.opened.manifest).makes}
        return PromptCompletion(_MARK) if is_plain else Conversation((Message("user", _MARK),))

    @property
    def is_chat(self) -> bool:
        """True if the run's chat template renders it."""
        return isinstance(self._shape, Conversation)

    @cached_property
    def system(self) -> str | None:
        """The system turn that is the same in every row."""
        if not isinstance(self._shape, Conversation) or self._shape.messages[0].role != "system":
            return None
        found = self._shape.messages[0].content
        return None if _MARK in found else found

    @cached_property
    def _around(self) -> tuple[str, str]:
        """What the recipe puts before and after a question."""
        shape = self._shape
        text = shape.messages[-1].content if isinstance(shape, Conversation) else getattr(shape, "prompt", _MARK)
        before, found, after = text.partition(_MARK)
        return (before, after) if found and _MARK not in after else ("", "")

    def _example(self, turns: Turns, tools: tuple[Values, ...] | None = None) -> Conversation | PromptCompletion:
        before, after = self._around
        written = [(role, f"{before}{text}{after}" if role == "user" else text) for role, text in turns]
        if self.is_chat:
            return Conversation(tuple(Message(role, text) for role, text in written), tools)
        return PromptCompletion(written[-1][1])

    def text(
        self, turns: Turns, generates: bool = True, tools: tuple[Values, ...] | None = None, **more: Any
    ) -> str | None:
        """Return what the model reads; None if the run refuses such turns.

        Args:
            turns: roles and texts.
            generates: whether an answer follows.
            tools: tools for the chat template.
            more: variables for the chat template.
        """
        example = self._example(turns, tools)
        if isinstance(example, PromptCompletion):
            return example.prompt if len(turns) == 1 and turns[0][0] == "user" else None
        renderer = self._renderer
        if more:
            renderer = replace(renderer, template_kwargs={**renderer.template_kwargs, **more})
        try:
            return renderer.text(example, add_generation_prompt=generates)
        except RowFaultError:
            return None

    def ids(self, turns: Turns) -> list[int]:
        """Return the tokens that the model reads."""
        return self._renderer.prompt(self._example(turns))

    def chats(self) -> Iterator[Turns]:
        """Yield conversations that the run does not refuse: the usual ones, then those of its evaluation rows."""
        yield from (turns for turns in CHATS if self.text(turns) is not None)
        form = format_of(self.opened.manifest)
        for row in kept_rows(self.opened.manifest)[:8]:
            try:
                example = form.prompt(row.values)
            except RowFaultError:
                continue
            if (turns := self._typed(example)) and self.text(turns) is not None:
                yield turns

    def _typed(self, example: Example) -> Turns:
        """What is typed for an example; nothing if it has more than turns of text."""
        if isinstance(example, Conversation):
            has_more = example.tools or any(turn.extra or turn.role == "tool" for turn in example.messages)
            turns = [] if has_more else [(turn.role, turn.content) for turn in example.messages]
        else:
            turns = [("user", example.prompt)] if isinstance(example, PromptCompletion) else []
        before, after = self._around
        if any(not (text.startswith(before) and text.endswith(after)) for role, text in turns if role == "user"):
            return ()
        end = -len(after) if after else None
        return tuple((role, text[len(before) : end] if role == "user" else text) for role, text in turns)

    def parts(self) -> TemplateParts:
        """Find the texts between turns. Raises `UsageError` if a TEMPLATE of Ollama cannot have them."""
        if not self.is_chat:
            return TemplateParts("", None, self._around, None, "")
        usual = CHATS[0]
        if self.text(usual) is not None and self.text(usual, strftime_now="") is None:  # it calls it
            what = "the chat template writes the date, which Ollama's TEMPLATE cannot"
            raise UsageError(Problem("", what, REMEDY))
        return parts_of(self.text)

    def notes(self) -> Iterator[str]:
        """Yield what the chat template does beyond a TEMPLATE, with turns that were not tried."""
        if self._asked is None:
            yield "the prompt is sent as it is typed; write it as in the rows of the run"
        if not self.is_chat:
            return
        usual = CHATS[0]
        plain = self.text(usual)
        if self.text([("user", f"  {usual[0][1]}  ")]) == plain:
            yield "the chat template removes spaces around a turn, and TEMPLATE keeps them"
        if self.text([("system", _SYSTEM), *usual]) is None:
            yield "the chat template takes no system turn, and Ollama leaves one out without a word"
        if self.text(usual, tools=({"type": "function", "function": _TOOL},)) not in {plain, None}:
            yield "the chat template describes tools, and TEMPLATE does not"
        turns = [*usual, ("assistant", f"<think>{_MARK}</think>4"), *usual]
        if (text := self.text(turns)) and _MARK not in text:
            yield "the chat template leaves out the reasoning of earlier answers, and TEMPLATE keeps it"
