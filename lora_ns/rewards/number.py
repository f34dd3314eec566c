"""`number`: the completion ends with the expected number, as in GSM8K."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal

from lora_ns.formats import RowFaultError
from lora_ns.rewards.base import Comparison, Completion
from lora_ns.table import NonNegativeFloat

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")

_MARK = "####"
"""Mark before the final answer in GSM8K."""

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


class Number(Comparison):
    """1 if the final number of the completion is that of the expected text; else 0.

    The final number is the first one after the last `####` (Cobbe et al. 2021, arXiv 2110.14168), or that in the last
    `\\boxed{}`, or else the last one of the text. Thousands separators do not count: 1,200 is 1200.
    """

    name: Literal["number"] = "number"
    tolerance: NonNegativeFloat = 0.0
    """Largest difference that counts as equal, relative to the expected number."""

    def check(self, row: Completion) -> None:
        """Check that the expected text has a number. Raises `RowFaultError`."""
        super().check(row)
        if final_number(self.expected(row)) is None:
            what = "the expected text has no number, so no completion could be right"
            raise RowFaultError(what, "correct it, remove the row, or compare texts instead")

    def score(self, given: Completion) -> float:
        """1 or 0."""
        found, expected = final_number(given.text), final_number(self.expected(given))
        if found is None or expected is None:
            return 0.0
        return float(abs(found - expected) <= Decimal(str(self.tolerance)) * abs(expected))


def final_number(text: str) -> Decimal | None:
    """The final number of a text; None if it has none."""
    _, mark, rest = text.rpartition(_MARK)
    if mark:
        return _number(_NUMBER.search(rest))
    boxed = _BOXED.findall(text)
    found = list(_NUMBER.finditer(boxed[-1] if boxed else text))
    return _number(found[-1] if found else None)


def _number(found: re.Match[str] | None) -> Decimal | None:
    if found is None:
        return None
    try:
        return Decimal(found.group().replace(",", ""))
    except InvalidOperation:
        return None
