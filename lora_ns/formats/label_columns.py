"""Detection of the label column, the kind of labels, and the text columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_ns.formats.base import RowFaultError, Values
from lora_ns.formats.cells import find, is_there, listed, parsed
from lora_ns.formats.classification import ProblemType, infer_problem_type
from lora_ns.formats.detection import TEXT_PAIRS, TEXTS
from lora_ns.formats.unused import METADATA

LABELS = (
    *("label", "labels", "class", "target", "sentiment", "intent", "emotion", "score", "rating", "stars"),
    *("tag", "tags", "category", "topic", "language", "lang"),
)
"""Usual names of label columns, the most likely first."""

_OFTEN_METADATA = frozenset({"category", "topic", "language", "lang"})

_LONGEST_NAME = 60
"""Largest number of characters in a class name; longer values are texts."""

_MANY_NUMBERS = 20
"""Number of different whole numbers above which they are scores rather than classes."""


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels."""

    name: str
    problem_type: ProblemType
    why: str
    """The reason, such as "`label` has 2 values in 300 rows"."""
    names: tuple[str, ...] = ()
    """Names of the classes or labels in order; empty for scores."""
    weight: int = 3
    """Weight of a reading with this column, from 0 to 3."""
    is_named: bool = True
    """True if its name is only usual for labels."""


def find_label_column(rows: Sequence[Values], names: Sequence[str], chosen: str | None) -> LabelColumn:
    """Find the label column, rather than a text or a row number.

    Args:
        rows: the first rows.
        names: names of their columns.
        chosen: the column, if it is already chosen.

    Raises:
        RowFaultError: if there is none.
    """
    if chosen:
        return _described(rows, chosen) or _as_classes(rows, chosen)
    named = [name for name in LABELS if name in names]
    others = [name for name in names if name not in (*LABELS, *METADATA) and not _is_long(rows, name)]
    for name in named:
        if found := _described(rows, name):
            return found
    if len(others) == 1 and (found := _described(rows, others[0])):
        return found
    free = [name for name in named if name not in _OFTEN_METADATA]
    if free:
        return _as_classes(rows, free[0])
    raise RowFaultError(f"no label among the columns {listed(names)}", "set `label_column`")


def _described(rows: Sequence[Values], name: str) -> LabelColumn | None:
    """Describe a column as labels; None if its values cannot be labels."""
    values = _values(rows, name)
    is_named = name in LABELS and name not in _OFTEN_METADATA
    weight = 3 if is_named else 2
    several = [value if isinstance(value, list) else _listed_in(value) for value in values]
    if values and name in LABELS and all(isinstance(value, list) for value in several):
        found = _ordered({str(part) for value in several for part in value or ()})
        why = f"`{name}` is a list of labels"
        return LabelColumn(name, "multi_label_classification", why, found, weight, is_named)
    kind, why = infer_problem_type(name, values)
    if kind == "regression":
        return LabelColumn(name, kind, why.removeprefix("regression, as "), (), weight, is_named)
    if not values or not all(isinstance(value, (str, int)) for value in values):
        return None
    return _of_classes(name, values, weight, is_named)


def _of_classes(name: str, values: Sequence[Any], weight: int, is_named: bool) -> LabelColumn | None:
    """Describe a column as classes, or as scores if they are many whole numbers; None for texts."""
    found = _ordered({str(value) for value in values})
    if is_named and all(_is_whole(text) for text in found) and len(found) > _MANY_NUMBERS:
        return LabelColumn(name, "regression", f"`{name}` has {len(found)} different numbers", (), 1, is_named)
    is_few = 1 < len(found) <= max(2, len(values) // (2 if is_named else 4))
    if not is_few or max(map(len, found)) > _LONGEST_NAME:
        return None
    why = _counted(name, found, values)
    return LabelColumn(name, "single_label_classification", why, found, weight, is_named)


def _as_classes(rows: Sequence[Values], name: str) -> LabelColumn:
    """Describe a column as classes, although its values look like texts."""
    values = _values(rows, name)
    found = _ordered({str(value) for value in values})
    return LabelColumn(name, "single_label_classification", _counted(name, found, values), found, weight=1)


def _counted(name: str, found: Sequence[str], values: Sequence[Any]) -> str:
    return f"`{name}` has {len(found):,} value{'s' * (len(found) != 1)} in {len(values):,} rows"


def _values(rows: Sequence[Values], name: str) -> list[Any]:
    values = [find(row, name) for row in rows if is_there(row, name)]
    return [value for value in values if value is not None and value != ""]


def _listed_in(value: Any) -> list[Any] | None:
    """Parse a list in a table cell; None if it is not a list."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        found = parsed(value, "", "")
    except RowFaultError:
        return None
    return found if isinstance(found, list) else None


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _ordered(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=int) if all(map(_is_whole, names)) else sorted(names))


def _is_long(rows: Sequence[Values], name: str) -> bool:
    """True if a column has texts with several words."""
    texts = [str(value) for value in _values(rows, name)]
    return sum(text.count(" ") for text in texts) > 2 * len(texts)


_NUMBERED = re.compile(r"^(.*?)[_-]?([12ab])$")


def text_columns(rows: Sequence[Values], names: Sequence[str], given: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the text column, or the two columns of a pair.

    Raises:
        RowFaultError: if there is none.
    """
    if given.get("text_column"):
        return tuple(given[key] for key in ("text_column", "text_pair_column") if given.get(key))
    for pair in TEXT_PAIRS:
        if set(pair) <= set(names):
            return pair
    texts = [name for name in names if all(isinstance(value, str) for value in _values(rows, name) or [None])]
    for first, second in itertools.pairwise(texts):
        one, other = _NUMBERED.match(first), _NUMBERED.match(second)
        if one and other and one[1] == other[1] and one[2] + other[2] in {"12", "ab"}:
            return first, second
    if named := [name for name in TEXTS if name in texts]:
        return (named[0],)
    if not texts:
        raise RowFaultError(f"no text among the columns {listed(names)}", "set `text_column`")
    return (max(texts, key=lambda name: sum(len(str(value)) for value in _values(rows, name))),)
