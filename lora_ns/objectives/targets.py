"""Labels and their numbers, as a model is to predict them."""

from __future__ import annotations

from collections.abc import Sequence

from lora_ns.formats import Label, RowFaultError

OUTSIDE = "O"
"""The tag of a word that belongs to nothing."""


_MOST_SHOWN = 20


def listed_labels(labels: Sequence[str]) -> str:
    """Labels as a message lists them: the first ones, and how many more there are."""
    more = f" and {len(labels) - _MOST_SHOWN} more" if len(labels) > _MOST_SHOWN else ""
    return f"{', '.join(labels[:_MOST_SHOWN])}{more}"


class Targets:
    """Labels by their numbers."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        names = {name: number for number, name in enumerate(labels)}
        named = not any(name.lstrip("-").isdigit() for name in labels)
        # Rows may give the numbers of labels that the recipe names.
        self._numbers = {**{str(number): number for number in range(len(labels))}, **names} if named else names

    def number(self, name: str, kind: str = "class") -> int:
        """The number of a label. Raises `RowFaultError` if it is not among those trained."""
        if name not in self._numbers:
            what = f"{kind} `{name}` is not among those trained"
            raise RowFaultError(what, f"known: {listed_labels(self.labels)}", "LABEL001")
        return self._numbers[name]

    def of(self, label: Label) -> int | float | list[float]:
        """What is learned: the number of a class, a 0 or 1 for each label, a score. Raises `RowFaultError`."""
        if isinstance(label, tuple):
            found = {self.number(name, "label") for name in label}
            return [float(number in found) for number in range(len(self.labels))]
        return self.number(label) if isinstance(label, str) else label
