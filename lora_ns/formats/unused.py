"""Columns that the format does not read: known as metadata, reported, or refused as a likely mistake."""

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
"""Columns that identify, classify or locate a row; no format reads them."""


_ANSWERED = [form for form in FORMATS.values() if {Conversation, PromptCompletion}.intersection(form.makes)]


_NAMES = frozenset(name for form in _ANSWERED for name in (*form.reads, *form.aliases))


_SIGN_COLUMNS = frozenset(name for form in FORMATS.values() for sign in form.signs for name in sign)


ANSWERS = frozenset(
    {
        *("code", "program", "sql", "solution", "canonical_solution", "reply", "result", "answers"),
        *("target", "targets", "labels", "summary", "highlights", "translation"),
    }
)
"""Columns that may hold the answer to a `text`, in addition to those of the formats."""


@dataclass(frozen=True)
class Unused:
    """Columns of a source that are neither read nor empty, without metadata."""

    columns: tuple[str, ...]
    meant: tuple[str, ...] = ()
    """Those with a name that some format reads, so that rows are likely to lose content."""


def find_unused(form: Format, settings: Columns, rows: Sequence[Values]) -> Unused:
    """Find the columns of rows that a format does not read.

    Args:
        form: format of the rows.
        settings: keys of `[dataset]` about columns.
        rows: all rows; their columns may differ.
    """
    names = names_of(rows)
    read = form.used(names)
    known = {*(column_of(name, names) for name in read), *settings.ignore_columns, *METADATA}
    rest = [name for name in names if name not in known and any(_is_filled(row.get(name)) for row in rows)]
    meaning = _meaning(form, settings)
    shares = {name: _share_contained(rows, name, read) for name in rest if name in meaning}
    left = [name for name in rest if shares.get(name, 0.0) < 1]
    return Unused(tuple(left), tuple(name for name in left if shares.get(name, 1.0) < MOSTLY))


def find_unasked(form: Format, rows: Sequence[Values]) -> list[str]:
    """Find the columns that prompts do not depend on, such as labels, without metadata.

    Args:
        form: format of the rows.
        rows: all rows. Each column is tried on the first row in which it is not empty.
    """
    found = []
    for name in names_of(rows):
        row = next((row for row in rows if _is_filled(row.get(name))), None)
        if row is not None and name not in METADATA and _is_unasked(form, row, name):
            found.append(name)
    return found


def _is_unasked(form: Format, row: Values, name: str) -> bool:
    """True if a row gives the same prompt without a column; False for a row without a prompt."""
    try:
        return form.prompt({key: value for key, value in row.items() if key != name}) == form.prompt(row)
    except RowFaultError:
        return False


def ends_answered(form: Format, rows: Sequence[Values]) -> bool:
    """True if a conversation in these rows ends with an answer, which is left out of the prompt."""
    return any(_ends_answered(form, row) for row in rows)


def _ends_answered(form: Format, row: Values) -> bool:
    try:
        prompt, example = form.prompt(row), form.example(row)
    except RowFaultError:
        return False
    if not isinstance(prompt, Conversation) or not isinstance(example, Conversation):
        return False
    return len(prompt.messages) < len(example.messages)


MOSTLY = 0.95
"""Share of rows from which a column counts as contained in others, even if a few rows spell it differently."""


def names_of(rows: Iterable[Values]) -> list[str]:
    """The columns of all rows, in order of first occurrence."""
    names: dict[str, None] = {}
    for row in rows:
        if not row.keys() <= names.keys():
            names |= dict.fromkeys(row)
    return list(names)


def _meaning(form: Format, settings: Columns) -> Collection[str]:
    """Column names that suggest content which this format would lose.

    If the recipe itself chooses the format, columns of other formats were rejected on purpose, and only columns that
    go with any question, such as `system`, may have been forgotten.
    """
    if isinstance(form, TextClassification):
        labels = ("label", "labels")
        return () if settings.text_column else {*TEXTS, *(name for pair in TEXT_PAIRS for name in pair), *labels}
    if isinstance(form, TokenClassification):
        return {*form.reads, *form.aliases}
    if settings.format != "auto" or settings.prompt_template is not None:
        return _NAMES - _SIGN_COLUMNS
    other_names = {alias for alias, name in form.aliases.items() if name in settings.columns}
    beside = {*_NAMES, *_SIGN_COLUMNS, "label", *(name for pair in PREFERENCES for name in pair)} - other_names
    return beside | ANSWERS if RawText in form.makes else beside


def _is_filled(value: Any) -> bool:
    """True for a value that is not empty."""
    return not (value is None or (isinstance(value, str) and not value.strip()) or value in ([], {}, ()))


def _share_contained(rows: Sequence[Values], name: str, read: Sequence[str]) -> float:
    """Share of rows in which the columns that are read contain a column, as UltraChat's `messages` contain `prompt`."""
    filled = [row for row in rows if _is_filled(row.get(name))]
    return sum(_is_contained(row, name, read) for row in filled) / len(filled)


def _is_contained(row: Values, name: str, read: Sequence[str]) -> bool:
    texts = [text.strip() for text in _texts(row.get(name))]
    known = [text.strip() for column in read if is_there(row, column) for text in _texts(find(row, column))]
    return bool(texts) and all(any(_has(whole, text) for whole in known) for text in texts)


def is_rendered(rows: Sequence[Values], name: str, read: Sequence[str]) -> bool:
    """True if a column repeats everything that is read, as the rendered `text` column of Alpaca does."""
    filled = [row for row in rows if _is_filled(row.get(name))]
    return bool(filled) and all(_holds(row, name, read) for row in filled)


def _holds(row: Values, name: str, read: Sequence[str]) -> bool:
    whole = "\n".join(_texts(row.get(name)))
    parts = [text.strip() for column in read if is_there(row, column) for text in _texts(find(row, column))]
    return sum(map(len, parts)) > _BY_CHANCE and all(part in whole for part in parts)


def _has(whole: str, text: str) -> bool:
    """True if a text contains another. A short one must match it entirely, since it occurs in many by chance."""
    return text == whole or (len(text) > _BY_CHANCE and text in whole)


_BY_CHANCE = 8
"""Characters of a text that may occur in another by chance."""


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
