"""Columns of rows that their format does not read: known as metadata, reported, or refused as a likely mistake."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.formats.base import Columns, Conversation, Format, PromptCompletion, RawText, RowFaultError, Values
from lora_ns.formats.cells import column_of, find, is_there
from lora_ns.formats.classification import TextClassification
from lora_ns.formats.detection import PREFERENCES, TEXT_PAIRS, TEXTS
from lora_ns.formats.registry import FORMATS
from lora_ns.formats.tokens import TokenClassification

METADATA = frozenset(
    {
        *("id", "idx", "index", "row_id", "uid", "uuid", "guid", "qid", "prompt_id", "conversation_id", "hash"),
        *("message_tree_id", "tree_state", "__index_level_0__"),
        *("source", "url", "dataset", "split", "subset", "license", "language", "lang", "timestamp", "date", "created"),
        *("meta", "metadata"),
        *("category", "group", "skill", "topic", "difficulty"),
    }
)
"""Columns that say which row it is, of which kind, and where it comes from; no format reads them."""


_ANSWERED = [form for form in FORMATS.values() if {Conversation, PromptCompletion}.intersection(form.makes)]


_NAMES = frozenset(name for form in _ANSWERED for name in (*form.reads, *form.aliases))


_SIGN_COLUMNS = frozenset(name for form in FORMATS.values() for sign in form.signs for name in sign)


_ANSWERS = frozenset(
    {
        *("code", "program", "sql", "solution", "canonical_solution", "reply", "result", "answers"),
        *("target", "targets", "labels", "summary", "highlights", "translation"),
    }
)
"""What may be the answer to a `text`, beside the columns of formats."""


@dataclass(frozen=True)
class Unused:
    """The columns of a source that are not read and not empty, metadata not among them."""

    columns: tuple[str, ...]
    meant: tuple[str, ...] = ()
    """Those whose names mean something to a format, so that a row is likely to lose a part of what it says."""


def find_unused(form: Format, asked: Columns, rows: Sequence[Values]) -> Unused:
    """The columns of rows that a format leaves unread.

    Args:
        form: how the rows are read.
        asked: what the recipe says about columns.
        rows: all of them; their columns may differ.
    """
    names = names_of(rows)
    read = form.used(names)
    known = {*(column_of(name, names) for name in read), *asked.ignore_columns, *METADATA}
    rest = [name for name in names if name not in known and any(_says(row.get(name)) for row in rows)]
    meaning = _meaning(form, asked)
    shares = {name: _told_share(rows, name, read) for name in rest if name in meaning}
    left = [name for name in rest if shares.get(name, 0.0) < 1]
    return Unused(tuple(left), tuple(name for name in left if shares.get(name, 1.0) < MOSTLY))


def find_unasked(form: Format, rows: Sequence[Values]) -> list[str]:
    """The columns of rows that a question to a model does not depend on, such as labels; metadata is not among them.

    Args:
        form: how the rows are read.
        rows: all of them. Each column is tried by the first row in which it says something.
    """
    found = []
    for name in names_of(rows):
        row = next((row for row in rows if _says(row.get(name))), None)
        if row is not None and name not in METADATA and _is_unasked(form, row, name):
            found.append(name)
    return found


def _is_unasked(form: Format, row: Values, name: str) -> bool:
    """Whether a row asks the same without a column; of a row that asks nothing, no column is left over."""
    try:
        return form.prompt({key: value for key, value in row.items() if key != name}) == form.prompt(row)
    except RowFaultError:
        return False


def ends_answered(form: Format, rows: Sequence[Values]) -> bool:
    """Whether a conversation of these rows ends with an answer, which is left out when a model is asked."""
    return any(_ends_answered(form, row) for row in rows)


def _ends_answered(form: Format, row: Values) -> bool:
    try:
        asked, whole = form.prompt(row), form.example(row)
    except RowFaultError:
        return False
    if not isinstance(asked, Conversation) or not isinstance(whole, Conversation):
        return False
    return len(asked.messages) < len(whole.messages)


MOSTLY = 0.95
"""Share of the rows from which on a column that says what others say is one that a few rows spell differently."""


def names_of(rows: Iterable[Values]) -> list[str]:
    """The columns of rows, in the order in which they come."""
    names: dict[str, None] = {}
    for row in rows:
        if not row.keys() <= names.keys():
            names |= dict.fromkeys(row)
    return list(names)


def _meaning(form: Format, asked: Columns) -> Collection[str]:
    """The names that mean something beside this format.

    Where the recipe itself says how rows are read, the columns of other formats are those that it decided against, and
    only what goes with any question, such as `system`, may have been forgotten.
    """
    if isinstance(form, TextClassification):
        labels = ("label", "labels")
        return () if asked.text_column else {*TEXTS, *(name for pair in TEXT_PAIRS for name in pair), *labels}
    if isinstance(form, TokenClassification):
        return {*form.reads, *form.aliases}
    if asked.format != "auto" or asked.prompt_template is not None:
        return _NAMES - _SIGN_COLUMNS
    other_names = {alias for alias, name in form.aliases.items() if name in asked.columns}
    beside = {*_NAMES, *_SIGN_COLUMNS, "label", *(name for pair in PREFERENCES for name in pair)} - other_names
    return beside | _ANSWERS if RawText in form.makes else beside


def _says(value: Any) -> bool:
    """Whether a value is more than an empty one."""
    return not (value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ()))


def _told_share(rows: Sequence[Values], name: str, read: Sequence[str]) -> float:
    """Share of rows in which those that are read say all that a column says: UltraChat's `messages` its `prompt`."""
    filled = [row for row in rows if _says(row.get(name))]
    return sum(_is_told(row, name, read) for row in filled) / len(filled)


def _is_told(row: Values, name: str, read: Sequence[str]) -> bool:
    said = [text.strip() for text in _texts(row.get(name))]
    known = [text.strip() for column in read if is_there(row, column) for text in _texts(find(row, column))]
    return bool(said) and all(any(_has(whole, text) for whole in known) for text in said)


def _has(whole: str, text: str) -> bool:
    """Whether a text is a part of another; one of a few letters has to be all of it, for it is in many by chance."""
    return text == whole or (len(text) > _BY_CHANCE and text in whole)


_BY_CHANCE = 8
"""Letters."""


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
