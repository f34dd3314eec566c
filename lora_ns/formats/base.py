"""Shared types of all formats: examples, the columns that a recipe names, errors in rows, the `Format` protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

ROLES = ("system", "user", "assistant", "tool")


Values = Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str
    extra: Values = field(default_factory=dict, hash=False)
    """Further keys of the turn for the chat template, such as `tool_calls`."""
    train: bool | None = None
    """Include this answer in the loss; None leaves the decision to the recipe."""

    def as_turn(self) -> dict[str, Any]:
        """The turn as a dict for a chat template."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class Conversation:
    """Turns and tools for the tokenizer's chat template."""

    messages: tuple[Message, ...]
    tools: tuple[Values, ...] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class PromptCompletion:
    """A plain-text prompt and its completion, which is empty if only the prompt is needed."""

    prompt: str
    completion: str = ""


@dataclass(frozen=True)
class RawText:
    """Text with every token in the loss, as in pretraining."""

    text: str


Label = str | float | tuple[str, ...]
"""Label of a text: a class, a score, or any number of labels."""


@dataclass(frozen=True)
class Labelled:
    """A text or a pair of texts with a label, which is empty if the model is to predict it."""

    text: str
    text_pair: str | None = None
    label: Label = ""


@dataclass(frozen=True)
class Tagged:
    """Words with one tag each; without tags if the model is to predict them."""

    words: tuple[str, ...]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preference:
    """Two conversations with the same prompt, one with the preferred answer and one with the rejected answer."""

    chosen: Conversation
    rejected: Conversation

    @property
    def sides(self) -> tuple[Conversation, Conversation]:
        """Both conversations, the preferred one first."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class LabelledCompletion:
    """A conversation whose last answer is labelled as desirable or not."""

    conversation: Conversation
    is_desirable: bool


@dataclass(frozen=True)
class Prompt:
    """A conversation to be continued by the model, with everything that its answer can be judged by."""

    conversation: Conversation
    answer: str | None = None
    """Reference answer."""
    values: Values = field(default_factory=dict, hash=False)
    """All columns of the row."""


Example = Conversation | PromptCompletion | RawText | Labelled | Tagged | Preference | LabelledCompletion | Prompt


def expected_of(example: Example) -> Example:
    """The part of an example that has the answer to expect: the preferred conversation of a pair."""
    if isinstance(example, Preference):
        return example.chosen
    if isinstance(example, Prompt):
        turns = example.conversation.messages
        answer = () if example.answer is None else (Message("assistant", example.answer),)
        return Conversation((*turns, *answer), example.conversation.tools)
    return example.conversation if isinstance(example, LabelledCompletion) else example


TEXT = (Conversation, PromptCompletion, RawText)
"""Examples for causal language models."""


class RowFaultError(Exception):
    """A row cannot become an example. Holds the fault, the remedy, and the code of the check, if it has one."""

    is_last: ClassVar[bool] = False
    """Skip the remaining rows, because each of them may take as long to fail."""

    def __init__(self, what: str, remedy: str = "", code: str = "", key: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.code = code
        self.key = key
        """Key of `[dataset]` at fault, such as `columns.text`, if the fault is in the recipe."""


class EndlessRowError(RowFaultError):
    """A row exceeded the limit of time or memory."""

    is_last = True


@dataclass(frozen=True)
class Columns:
    """The keys of `[dataset]` that formats read."""

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Column names in the data, by the name that the format expects."""
    prompt_template: str | None = None
    fallback_prompt_templates: Sequence[str] = field(default=(), hash=False)
    """Of rows in which a column of the first is empty."""
    completion_template: str | None = None
    system_template: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str = "label"
    ignore_columns: Collection[str] = ()
    """Columns that are ignored on purpose; formats do not see them."""

    @property
    def prompt_templates(self) -> tuple[str, ...]:
        """The templates of the prompt, in the order in which they are tried."""
        return () if self.prompt_template is None else (self.prompt_template, *self.fallback_prompt_templates)


class Format(Protocol):
    """A row format: turns rows into examples, prompts and reference answers."""

    name: ClassVar[str]
    """Name in the recipe."""
    makes: ClassVar[tuple[type[Example], ...]]
    """Kinds of examples that its rows become."""
    reads: ClassVar[tuple[str, ...]]
    """Columns that the recipe can map with `columns`."""
    aliases: ClassVar[Mapping[str, str]]
    """Other common column names, each with the name that it stands for."""
    signs: ClassVar[tuple[tuple[str, ...], ...]]
    """Sets of columns that identify the format, each on its own; empty if only the recipe can select it."""
    late_signs: ClassVar[tuple[tuple[str, ...], ...]]
    """Sets of columns that identify it if no format matches by `signs`, because other formats have them, too."""

    templates: ClassVar[tuple[str, ...]]
    """Templates of the recipe that it fills."""

    def __init__(self, columns: Columns) -> None: ...

    def used(self, names: Collection[str]) -> list[str]:
        """Select the columns, or paths into them, that the format reads, in its own order."""
        ...

    def example(self, values: Values) -> Example:
        """Turn a row into a training example. Raises `RowFaultError`."""
        ...

    def prompt(self, values: Values) -> Example:
        """Turn a row into a prompt, without its answer. Raises `RowFaultError`."""
        ...

    def question(self, text: str) -> Values:
        """Make a row from a bare text. Raises `RowFaultError` if one text is not enough."""
        ...

    def answer(self, values: Values) -> str:
        """Extract the reference answer of a row. Raises `RowFaultError`."""
        ...
