"""How a row becomes an example: one class per format, pure, with the columns that it needs.

`FORMATS` is the registry. `detect` chooses one by the columns and says why.
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

ROLES = ("system", "user", "assistant", "tool")

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Turns that the tokenizer's chat template renders."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class PromptCompletion:
    """Plain text and how it goes on; `completion` is empty where only a prompt is asked for."""

    prompt: str
    completion: str = ""


@dataclass(frozen=True)
class Labelled:
    """A text or a pair of them, and its class; the label is empty where it is asked for."""

    text: str
    text_pair: str | None = None
    label: str = ""


Example = Conversation | PromptCompletion | Labelled


class RowFaultError(Exception):
    """A row that cannot become an example: what is wrong, what to do, and the code of the check, if it has one."""

    def __init__(self, what: str, remedy: str = "", code: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.code = code


@dataclass(frozen=True)
class Columns:
    """What the recipe says about columns; the part of `[dataset]` that formats read."""

    format: str = "auto"
    prompt_template: str | None = None
    completion_template: str | None = None
    system_template: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str = "label"


class Format(Protocol):
    """A way to read rows."""

    name: ClassVar[str]

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


@dataclass(frozen=True)
class Messages:
    """Conversations: a `messages` column, `prompt` and `completion` columns, or templates that fill the two turns."""

    name: ClassVar[str] = "messages"

    columns: Columns

    def example(self, values: Values) -> Conversation:
        """All turns; the last one is the assistant's."""
        messages = self._messages(values)
        if not messages or messages[-1].role != "assistant":
            last = messages[-1].role if messages else "nobody"
            raise RowFaultError(f"the last turn is {last}'s", "a row to learn from ends with an assistant turn")
        return Conversation(messages)

    def prompt(self, values: Values) -> Conversation:
        """The turns before the last answer."""
        messages = self._messages(values, with_answer=False)
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        if not messages:
            raise RowFaultError("no turn to answer", "give a user turn")
        return Conversation(messages)

    def question(self, text: str) -> Values:
        """One user turn."""
        if self.columns.prompt_template is not None:
            return _fill_single_field(self.columns.prompt_template, text)
        return {"messages": [{"role": "user", "content": text}]}

    def answer(self, values: Values) -> str:
        """The last turn."""
        return self.example(values).messages[-1].content

    def _messages(self, values: Values, with_answer: bool = True) -> tuple[Message, ...]:
        columns = self.columns
        if columns.prompt_template is not None and "messages" not in values:
            turns = [Message("user", _fill(columns.prompt_template, values))]
            if columns.system_template is not None:
                turns.insert(0, Message("system", _fill(columns.system_template, values)))
            if with_answer:
                turns.append(Message("assistant", _answer(_fill(columns.completion_template or "", values))))
            return tuple(turns)
        if "messages" in values:
            return _turns(values["messages"], "messages")
        prompt = _as_turns(values, "prompt", "user")
        return prompt + _as_turns(values, "completion", "assistant") if with_answer else prompt


@dataclass(frozen=True)
class PlainPromptCompletion:
    """Plain text: `prompt` and `completion` columns, or two templates."""

    name: ClassVar[str] = "prompt-completion"

    columns: Columns

    def example(self, values: Values) -> PromptCompletion:
        """Prompt and answer."""
        return PromptCompletion(self._prompt(values), self.answer(values))

    def prompt(self, values: Values) -> PromptCompletion:
        """The prompt alone."""
        return PromptCompletion(self._prompt(values))

    def question(self, text: str) -> Values:
        """The text fills the one field of the template, or is the prompt."""
        if self.columns.prompt_template is not None:
            return _fill_single_field(self.columns.prompt_template, text)
        return {"prompt": text}

    def answer(self, values: Values) -> str:
        """The completion."""
        template = self.columns.completion_template
        return _answer(_text(values, "completion") if template is None else _fill(template, values))

    def _prompt(self, values: Values) -> str:
        template = self.columns.prompt_template
        return _text(values, "prompt") if template is None else _fill(template, values)


@dataclass(frozen=True)
class TextClassification:
    """A text or a pair of texts with a class."""

    name: ClassVar[str] = "classification"

    columns: Columns

    def example(self, values: Values) -> Labelled:
        """The texts with their class."""
        return Labelled(*self._texts(values), label=self.answer(values))

    def prompt(self, values: Values) -> Labelled:
        """The texts alone."""
        return Labelled(*self._texts(values))

    def question(self, text: str) -> Values:
        """One text."""
        if self.columns.text_pair_column:
            raise RowFaultError("a pair of texts is classified, and one was given", "put both into a .jsonl file")
        return {self.columns.text_column or "text": text}

    def answer(self, values: Values) -> str:
        """The class as a string; `3.0` is class 3."""
        if self.columns.label_column not in values:
            raise RowFaultError(f"no column `{self.columns.label_column}`", _known(values))
        label = values[self.columns.label_column]
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
            raise RowFaultError(
                f"`{self.columns.label_column}` is {_shown(label)}", "a class is a name or a whole number"
            )
        return str(label)

    def _texts(self, values: Values) -> tuple[str, str | None]:
        pair = self.columns.text_pair_column
        return _text(values, self.columns.text_column or "text"), _text(values, pair) if pair else None


FORMATS: Mapping[str, type[Messages] | type[PlainPromptCompletion] | type[TextClassification]] = {
    form.name: form for form in (Messages, PlainPromptCompletion, TextClassification)
}

_TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
_TEXTS = ("text", "sentence", "review", "content")


def detect(
    columns: Columns, names: Sequence[str], first: Values, task: Literal["CAUSAL_LM", "SEQ_CLS"]
) -> tuple[Format, str]:
    """The format of rows with these column names, and the reason.

    Raises:
        RowFaultError: if nothing fits, or a column that the recipe names is not there.
    """
    _check_named_columns(columns, names)
    if task == "SEQ_CLS":
        return _detect_classification(columns, names)
    if columns.format != "auto":
        return FORMATS[columns.format](columns), f'`format = "{columns.format}"`'
    if columns.prompt_template is not None:
        return PlainPromptCompletion(columns), "templates in the recipe"
    if "messages" in names:
        return Messages(columns), "column `messages`"
    if "prompt" in names and "completion" in names:
        form = Messages(columns) if isinstance(first["prompt"], list) else PlainPromptCompletion(columns)
        return form, "columns `prompt` and `completion`"
    raise RowFaultError(
        f"no `messages`, and no `prompt` with `completion`, among the columns {_list(names)}",
        "say how a row becomes text: `prompt_template` and `completion_template` with `{column}` in them",
    )


def _detect_classification(columns: Columns, names: Sequence[str]) -> tuple[Format, str]:
    if columns.label_column not in names:
        raise RowFaultError(f"no column `{columns.label_column}` among {_list(names)}", "name it by `label_column`")
    if columns.text_column:
        shown = [columns.text_column, *([columns.text_pair_column] if columns.text_pair_column else [])]
        return TextClassification(columns), f"{_list(shown)} in the recipe"
    for text, pair in _TEXT_PAIRS:
        if text in names and pair in names:
            return _classification(columns, text, pair)
    for text in _TEXTS:
        if text in names:
            return _classification(columns, text, None)
    raise RowFaultError(f"no text among the columns {_list(names)}", "name it by `text_column`")


def _classification(columns: Columns, text: str, pair: str | None) -> tuple[Format, str]:
    found = Columns(columns.format, text_column=text, text_pair_column=pair, label_column=columns.label_column)
    return TextClassification(found), f"columns {_list([text, pair] if pair else [text])}"


def _check_named_columns(columns: Columns, names: Sequence[str]) -> None:
    for key in ("prompt_template", "completion_template", "system_template"):
        for _, field, _, _ in string.Formatter().parse(getattr(columns, key) or ""):
            if field is not None and field not in names:
                raise RowFaultError(
                    f"dataset.{key}: names column `{field}`, which the data does not have", _close(field, names)
                )
    for key in ("text_column", "text_pair_column"):
        name = getattr(columns, key)
        if name and name not in names:
            raise RowFaultError(f"dataset.{key}: `{name}` is not a column of the data", _close(name, names))


def _close(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean `{close[0]}`? " if close else ""
    return f"{hint}columns: {', '.join(names)}"


def _fill(template: str, values: Values) -> str:
    parts = []
    for literal, field, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if field is not None:
            parts.append(_text(values, field))
    return "".join(parts)


def _fill_single_field(template: str, text: str) -> Values:
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
    if len(fields) != 1:
        raise RowFaultError(
            f"the prompt has {len(fields)} columns ({', '.join(sorted(fields))}), and one text was given",
            "put the columns into a .jsonl file",
        )
    return {fields.pop(): text}


def _text(values: Values, column: str) -> str:
    if column not in values:
        raise RowFaultError(f"no column `{column}`", _known(values))
    value = values[column]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowFaultError(f"`{column}` is {_shown(value)} instead of text")
    return str(value)


def _answer(text: str) -> str:
    if not text.strip():
        raise RowFaultError("the answer is empty", "it would teach the model to say nothing; remove the row")
    return text


def _as_turns(values: Values, column: str, role: str) -> tuple[Message, ...]:
    if isinstance(values.get(column), list):
        return _turns(values[column], column)
    return (Message(role, _answer(_text(values, column)) if role == "assistant" else _text(values, column)),)


def _turns(value: Any, column: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RowFaultError(f"`{column}` is {_shown(value)} instead of a list of turns")
    return tuple(_turn(turn, f"{column}[{number}]") for number, turn in enumerate(value))


def _turn(turn: Any, place: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowFaultError(f"`{place}` is {_shown(turn)} instead of a turn", 'write `{"role": ..., "content": ...}`')
    unknown = sorted(set(turn) - {"role", "content"})
    if unknown:
        raise RowFaultError(f"`{place}` has `{unknown[0]}`, which would be lost", "a turn has `role` and `content`")
    if turn.get("role") not in ROLES:
        raise RowFaultError(f"`{place}.role` is {_shown(turn.get('role'))}", f"one of: {', '.join(ROLES)}")
    content = turn.get("content")
    if not isinstance(content, str):
        raise RowFaultError(f"`{place}.content` is {_shown(content)} instead of text")
    return Message(turn["role"], _answer(content) if turn["role"] == "assistant" else content)


def _known(values: Values) -> str:
    return f"columns: {', '.join(values)}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false"}
    text = repr(value)
    return kinds.get(type(value)) or (text if len(text) <= 40 else f"{text[:37]}...")
