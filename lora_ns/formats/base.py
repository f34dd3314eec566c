"""The ground that every format stands on: examples, the columns that a recipe names, the faults of a row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
    """What else the chat template is to see of the turn, such as `tool_calls`."""
    train: bool | None = None
    """Whether this answer is in the loss; None where the recipe decides."""

    def as_turn(self) -> dict[str, Any]:
        """The turn as chat templates read it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class Conversation:
    """Turns that the tokenizer's chat template renders, with the tools that it shows."""

    messages: tuple[Message, ...]
    tools: tuple[Values, ...] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class PromptCompletion:
    """Plain text and how it goes on; `completion` is empty where only a prompt is asked for."""

    prompt: str
    completion: str = ""


@dataclass(frozen=True)
class RawText:
    """Text that is learned from its first token to its last."""

    text: str


Label = str | float | tuple[str, ...]
"""What a text is given: a class, a score, or any number of labels."""


@dataclass(frozen=True)
class Labelled:
    """A text or a pair of them, and its label; the label is empty where it is asked for."""

    text: str
    text_pair: str | None = None
    label: Label = ""


@dataclass(frozen=True)
class Tagged:
    """Words with a tag each; without tags where they are asked for."""

    words: tuple[str, ...]
    tags: tuple[str, ...] = ()


Example = Conversation | PromptCompletion | RawText | Labelled | Tagged

TEXT = (Conversation, PromptCompletion, RawText)
"""Kinds of examples that a model learns to write text from."""


class RowFaultError(Exception):
    """A row that cannot become an example: what is wrong, what to do, and the code of the check, if it has one."""

    is_last: ClassVar[bool] = False
    """Whether the other rows are not tried, because each of them may take as long to fail."""

    def __init__(self, what: str, remedy: str = "", code: str = "", key: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.code = code
        self.key = key
        """What of `[dataset]` it is about, such as `columns.text`, if it is about what the recipe says."""


class EndlessRowError(RowFaultError):
    """A row that took more time or memory than it may."""

    is_last = True


@dataclass(frozen=True)
class Columns:
    """What the recipe says about columns; the part of `[dataset]` that formats read."""

    format: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    """By the name that a format expects, the name in the data."""
    prompt_template: str | None = None
    completion_template: str | None = None
    system_template: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str = "label"
    ignore_columns: Collection[str] = ()
    """Columns that are left out on purpose: no format sees them."""


class Format(Protocol):
    """A way to read rows."""

    name: ClassVar[str]
    """What the recipe calls it."""
    makes: ClassVar[tuple[type[Example], ...]]
    """The kinds of examples that its rows become."""
    reads: ClassVar[tuple[str, ...]]
    """The columns that the recipe can name by `columns`."""
    aliases: ClassVar[Mapping[str, str]]
    """Other usual names of columns, and what each stands for."""
    signs: ClassVar[tuple[tuple[str, ...], ...]]
    """The columns that tell it, each set of them by itself; none where the recipe alone tells it."""
    late_signs: ClassVar[tuple[tuple[str, ...], ...]]
    """Those that tell it where the signs of no format are there, because they are a part of others, or beside them."""

    templates: ClassVar[tuple[str, ...]]
    """The templates of a recipe that it fills."""

    def __init__(self, columns: Columns) -> None: ...

    def used(self, names: Collection[str]) -> list[str]:
        """What of these columns the rows are read from, or the paths into them, in the format's order."""
        ...

    def example(self, values: Values) -> Example:
        """A row to learn from. Raises `RowFaultError`."""
        ...

    def prompt(self, values: Values) -> Example:
        """A row to answer: its answer, if it has one, is left out. Raises `RowFaultError`."""
        ...

    def question(self, text: str) -> Values:
        """The row that a bare text stands for. Raises `RowFaultError` where one text is not enough."""
        ...

    def answer(self, values: Values) -> str:
        """The answer that a row gives. Raises `RowFaultError`."""
        ...
