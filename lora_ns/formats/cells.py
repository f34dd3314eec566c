"""Access to the values of a row by a format's column names. Messages use the names in the data."""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.files.reading import check_depth, finite, refusal
from lora_ns.formats.base import Columns, RowFaultError, Values


@dataclass(frozen=True)
class Cells:
    """A row, read by the column names of a format.

    A column that is mapped to another name is hidden under its own.
    """

    values: Values
    columns: Mapping[str, str]
    ignored: Collection[str] = ()

    def own(self, name: str) -> str:
        """The name of a column in the data."""
        return self.columns.get(name, name)

    def has(self, name: str) -> bool:
        """True if the row has a column."""
        own = self.own(name)
        return own not in self.ignored and is_there(self.values, own) and is_seen(name, self.columns)

    def get(self, name: str) -> Any:
        """A value, or None if the column is missing."""
        return find(self.values, self.own(name)) if self.has(name) else None

    def text(self, name: str) -> str:
        """A value as text. Raises `RowFaultError`."""
        return text(self.values, self.own(name))

    def optional_text(self, name: str) -> str:
        """A value as text, or an empty string if there is none. Raises `RowFaultError`."""
        return "" if self.get(name) is None else self.text(name)


def cells_of(values: Values, columns: Columns) -> Cells:
    """Wrap a row with the column mapping of the recipe."""
    return Cells(values, columns.columns, columns.ignore_columns)


def used_columns(columns: Columns, reads: Sequence[str], names: Collection[str]) -> list[str]:
    """Columns of the data, or paths into them, that a format reads under the names `reads`."""
    read = (name for name in reads if is_seen(name, columns.columns))
    own = (columns.columns.get(name, name) for name in read)
    return [name for name in own if column_of(name, names) in names and name not in columns.ignore_columns]


def template_columns(*templates: str | None) -> list[str]:
    """Columns, or paths into them, that templates name."""
    parts = (part for template in templates if template for part in string.Formatter().parse(template))
    return list(dict.fromkeys(field for _, field, _, _ in parts if field is not None))


def is_seen(name: str, columns: Mapping[str, str]) -> bool:
    """True if a column is readable under this name, and not mapped to another one."""
    return name in columns or name not in columns.values()


def find(values: Values, name: str) -> Any:
    """The value of a column, or of a path into it such as `answers.text.0`.

    Raises:
        KeyError: if it does not exist.
    """
    if name in values:
        return values[name]
    column, *path = name.split(".")
    value = values[column]
    for step in path:
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise KeyError(name)
    return value


def is_there(values: Values, name: str) -> bool:
    """True if a row has a column, or a value under a path into it."""
    try:
        find(values, name)
    except KeyError:
        return False
    return True


def column_of(name: str, names: Collection[str]) -> str:
    """The column of a name, which may be a path into it."""
    return name if name in names else name.partition(".")[0]


def found(values: Values, column: str) -> Any:
    """Like `find`, but raises `RowFaultError`."""
    try:
        return find(values, column)
    except KeyError:
        raise RowFaultError(f"no column `{column}`", f"columns: {', '.join(values)}") from None


def text(values: Values, column: str) -> str:
    """The value of a column or of a path into it, as text. Raises `RowFaultError`."""
    value = found(values, column)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowFaultError(f"`{column}` is {shown(value)} instead of text")
    return str(value)


def answered(answer: str) -> str:
    """Check that an answer is not empty, and return it. Raises `RowFaultError`."""
    if not answer.strip():
        raise RowFaultError("the answer is empty", "it would teach the model to say nothing; remove the row")
    return answer


def fill(template: str, values: Values) -> str:
    """Fill a template with the columns of a row. Raises `RowFaultError`."""
    parts = []
    for literal, field, _, _ in string.Formatter().parse(template):
        parts.append(literal)
        if field is not None:
            parts.append(text(values, field))
    return "".join(parts)


def fill_first(templates: Sequence[str], values: Values) -> str:
    """Fill the first template whose own columns a row has, otherwise the last. Raises `RowFaultError`.

    Columns that all templates share do not count.
    """
    own = _own_columns(tuple(templates))
    full = (template for template, names in zip(templates, own, strict=True) if _fills(values, names))
    return fill(next(full, templates[-1]), values)


@functools.lru_cache(maxsize=64)
def _own_columns(templates: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    columns = [frozenset(template_columns(template)) for template in templates]
    return tuple(names - frozenset.intersection(*columns) for names in columns)


def _fills(values: Values, names: Collection[str]) -> bool:
    return all(_has_value(values, name) for name in names)


def _has_value(values: Values, name: str) -> bool:
    return is_there(values, name) and find(values, name) not in (None, "")


def fill_single_field(templates: Sequence[str], given: str) -> Values:
    """Make a row with a text in the only column of a template. Raises `RowFaultError` if each has more than one."""
    listed_fields = [{*template_columns(template)} for template in templates]
    fields = next((fields for fields in listed_fields if len(fields) == 1), listed_fields[0])
    if len(fields) != 1:
        raise RowFaultError(
            f"the prompt needs {len(fields)} columns ({', '.join(sorted(fields))}), but only one text was given",
            "write the columns to a .jsonl file",
        )
    return {fields.pop(): given}


def parsed(value: str, place: str, remedy: str) -> Any:
    """Parse JSON in a string, within the limits for rows. Raises `RowFaultError`."""
    try:
        found = json.loads(value, parse_float=finite, parse_constant=finite)
        check_depth(found)
    except json.JSONDecodeError as error:
        raise RowFaultError(
            f"`{place}` is not JSON: {error.msg.lower()} at character {error.pos + 1}", remedy
        ) from None
    except (ValueError, RecursionError) as error:
        refused = refusal(error)
        raise RowFaultError(f"`{place}`: {refused.what}", refused.remedy or remedy) from None
    return found


def listed(names: Sequence[str]) -> str:
    """Names for a message, in backticks."""
    return ", ".join(f"`{name}`" for name in names)


def shown(value: Any) -> str:
    """A value for a message, cut at 40 characters."""
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false"}
    written = repr(value)
    return kinds.get(type(value)) or (written if len(written) <= 40 else f"{written[:37]}...")
