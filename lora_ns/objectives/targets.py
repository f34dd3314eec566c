"""Conversion of labels to the ids and values that a model predicts."""

from __future__ import annotations

from collections.abc import Sequence

from lora_ns.formats import Label, RowFaultError

OUTSIDE = "O"
"""Tag of a word outside any entity."""


_MOST_SHOWN = 20


def listed_labels(labels: Sequence[str]) -> str:
    """Labels for a message: the first ones, and the number of the others."""
    more = f" and {len(labels) - _MOST_SHOWN} more" if len(labels) > _MOST_SHOWN else ""
    return f"{', '.join(labels[:_MOST_SHOWN])}{more}"


class Targets:
    """The trained labels, in the order of their ids."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        names = {name: number for number, name in enumerate(labels)}
        named = not any(name.lstrip("-").isdigit() for name in labels)
        # If the recipe names the labels, rows may contain ids.
        self._numbers = {**{str(number): number for number in range(len(labels))}, **names} if named else names

    def number(self, name: str, kind: str = "class") -> int:
        """The id of a label. Raises `RowFaultError` if it is not among those trained."""
        if name not in self._numbers:
            what = f"{kind} `{name}` is not among those trained"
            raise RowFaultError(what, f"known: {listed_labels(self.labels)}", "LABEL001")
        return self._numbers[name]

    def of(self, label: Label) -> int | float | list[float]:
        """The training target: a class id, a 0 or 1 for each label, or a score. Raises `RowFaultError`."""
        if isinstance(label, tuple):
            found = {self.number(name, "label") for name in label}
            return [float(number in found) for number in range(len(self.labels))]
        return self.number(label) if isinstance(label, str) else label
