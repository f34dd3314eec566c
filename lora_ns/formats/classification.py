"""The format of labelled texts: one class, any number of labels, or a score."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lora_ns.formats.base import Columns, Example, Label, Labelled, RowFaultError, Values
from lora_ns.formats.cells import column_of, found, parsed, shown, text

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""Kinds of labels, by their transformers names."""


@dataclass(frozen=True)
class TextClassification:
    """A text or a pair of texts with a label. The recipe names the columns with `text_column` and others."""

    name: ClassVar[str] = "classification"
    makes: ClassVar[tuple[type[Example], ...]] = (Labelled,)
    reads: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    late_signs: ClassVar[tuple[tuple[str, ...], ...]] = ()
    templates: ClassVar[tuple[str, ...]] = ()

    columns: Columns
    problem_type: ProblemType = "single_label_classification"

    def used(self, names: Collection[str]) -> list[str]:
        """The columns of the texts and of the label."""
        columns = self.columns
        read = (columns.text_column or "text", columns.text_pair_column, columns.label_column)
        return [name for name in read if name and column_of(name, names) in names]

    def example(self, values: Values) -> Labelled:
        """The texts with their label."""
        return Labelled(*self._texts(values), label=self.label(values))

    def prompt(self, values: Values) -> Labelled:
        """The texts without their label."""
        return Labelled(*self._texts(values))

    def question(self, text: str) -> Values:
        """A row with one text."""
        if self.columns.text_pair_column:
            raise RowFaultError("a pair of texts is needed, but only one was given", "write both to a .jsonl file")
        return {self.columns.text_column or "text": text}

    def answer(self, values: Values) -> str:
        """The label as a string."""
        label = self.label(values)
        return ", ".join(label) if isinstance(label, tuple) else str(label)

    def label(self, values: Values) -> Label:
        """The class, the score or the labels of a row. Raises `RowFaultError`."""
        column = self.columns.label_column
        value = found(values, column)
        if self.problem_type == "regression":
            return _score(column, value)
        if self.problem_type == "multi_label_classification":
            return _labels(column, value)
        return class_name(column, value, "a class is a name or a whole number")

    def _texts(self, values: Values) -> tuple[str, str | None]:
        pair = self.columns.text_pair_column
        return text(values, self.columns.text_column or "text"), text(values, pair) if pair else None


def infer_problem_type(column: str, values: Iterable[Any]) -> tuple[ProblemType, str]:
    """Infer the problem type from the labels of all rows, with the reason, which is empty for classes.

    If the first label is a list, the problem is multi-label. If all labels are numbers and one has a fraction, it is a
    regression; numbers may be written as text, as in CSV.
    """
    present = [value for value in values if value is not None]
    if present and isinstance(present[0], (list, tuple)):
        return "multi_label_classification", f"multi-label, because `{column}` is a list"
    numbers = [_number(value) for value in present]
    if all(number is not None for number in numbers):
        fraction = next((number for number in numbers if number and math.isfinite(number) and number % 1), None)
        if fraction is not None:
            return "regression", f"regression, because `{column}` has numbers such as {fraction:g}"
    return "single_label_classification", ""


def _number(value: Any) -> float | None:
    """A value as a number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def class_name(place: str, label: Any, remedy: str) -> str:
    """The class name of a value; `3.0` is class 3. Raises `RowFaultError`."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
        raise RowFaultError(f"`{place}` is {shown(label)}", remedy)
    return str(label)


def _score(column: str, value: Any) -> float:
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise RowFaultError(f"`{column}` is {shown(value)}", "a score is a finite number")
    return number


def _labels(column: str, value: Any) -> tuple[str, ...]:
    """The labels of a row, from a list or from the JSON text of one, as in CSV."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, column, 'write a list, such as ["a", "b"]')
    if not isinstance(value, (list, tuple)):
        raise RowFaultError(f"`{column}` is {shown(value)} instead of a list", 'write ["a"] for one label, [] for none')
    remedy = "a label is a name or a whole number"
    names = tuple(class_name(f"{column}[{number}]", label, remedy) for number, label in enumerate(value))
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        what = f"label `{twice}` occurs twice in `{column}`"
        raise RowFaultError(what, "list each label that applies once; 0 and 1 are read as names of labels")
    return names
