"""The base class of suites that compare answers with one or several reference texts."""

from __future__ import annotations

from lora_ns.formats import RowFaultError
from lora_ns.formats.cells import shown
from lora_ns.suites.base import Gold, Suite
from lora_ns.table import Column


class ReferencesSuite(Suite):
    """A suite whose answers are compared with reference texts."""

    column: Column | None = None
    """Column with the expected text, or a list of equally good ones; by default the reference answer of the row."""

    def check(self, gold: Gold) -> None:
        """Check that the row has references. Raises `RowFaultError`."""
        self.references(gold)

    def references(self, gold: Gold) -> list[str]:
        """The reference texts of a row. Raises `RowFaultError`."""
        value = gold.answer if self.column is None else gold.values.get(self.column)
        if not isinstance(value, list):
            return [gold.expected(self.column)]
        wrong = next((one for one in value if not isinstance(one, str) or not one.strip()), None)
        if not value or wrong is not None:
            what = f"`{self.column}` has {shown(wrong)} among its texts" if value else f"`{self.column}` has no texts"
            raise RowFaultError(what, "write a list of texts to compare answers with")
        return list(value)
