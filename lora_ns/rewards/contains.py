"""`contains`: the completion contains texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from lora_ns.rewards.base import Comparison, Completion
from lora_ns.table import Conflict, Text


class Contains(Comparison):
    """Share of the texts that the completion contains; of `texts`, or else of the one expected text of the row."""

    name: Literal["contains"] = "contains"
    texts: tuple[Text, ...] = ()
    """Texts to contain; by default the text of `column`, or the reference answer of the row."""
    ignore_case: bool = False
    """Compare without case."""

    verifies: ClassVar[bool] = False

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """Two sources of the text."""
        if self.texts and self.column:
            yield Conflict((f"{key}.texts", f"{key}.column"), "`texts` replaces `column`", "keep one of them")

    def check(self, row: Completion) -> None:
        """Check that the row has the text, if it comes from there. Raises `RowFaultError`."""
        if not self.texts:
            super().check(row)

    def score(self, given: Completion) -> float:
        """Between 0 and 1."""
        wanted = self.texts or (self.expected(given).strip(),)
        text = given.text
        if self.ignore_case:
            wanted, text = tuple(one.casefold() for one in wanted), text.casefold()
        return sum(one in text for one in wanted) / len(wanted)
