"""Texts with a class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lora_ns.formats.base import Columns, Labelled, RowFaultError, Values
from lora_ns.formats.cells import shown, text


@dataclass(frozen=True)
class TextClassification:
    """A text or a pair of texts with a class; the columns have keys of their own in the recipe."""

    name: ClassVar[str] = "classification"
    reads: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, str]] = {}

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
            raise RowFaultError(f"no column `{self.columns.label_column}`", f"columns: {', '.join(values)}")
        label = values[self.columns.label_column]
        if isinstance(label, float) and label.is_integer():
            label = int(label)
        if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
            raise RowFaultError(
                f"`{self.columns.label_column}` is {shown(label)}", "a class is a name or a whole number"
            )
        return str(label)

    def _texts(self, values: Values) -> tuple[str, str | None]:
        pair = self.columns.text_pair_column
        return text(values, self.columns.text_column or "text"), text(values, pair) if pair else None
