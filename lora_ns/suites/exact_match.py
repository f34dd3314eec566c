"""`exact-match`: the answer is the expected text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from lora_ns.formats import EndlessRowError, RowFaultError
from lora_ns.objectives.metrics import extract_answer, is_match
from lora_ns.safety.deadline import OverrunError
from lora_ns.statistics import Measure, share
from lora_ns.suites.base import SIMPLER_PATTERN, Gold, Suite, judged
from lora_ns.table import Column, Conflict, Text


class ExactMatchSuite(Suite):
    """Share of answers that are exactly the expected text, without white space around it."""

    kind: Literal["exact-match"] = "exact-match"
    column: Column | None = None
    """Column with the expected text; by default the reference answer of the row."""
    answer_pattern: Text | None = None
    """Regular expression whose last match (group 1, if any) is compared, such as `"#### (.+)"` for GSM8K."""

    figure: ClassVar[str] = "exact_match"

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """A pattern that is no regular expression."""
        try:
            re.compile(self.answer_pattern or "")
        except re.error as error:
            yield Conflict((f"{key}.answer_pattern",), f"not a regular expression: {error}", "correct it")

    def check(self, gold: Gold) -> None:
        """Check that the expected text has something to compare. Raises `RowFaultError`."""
        if not self._extracted(gold.expected(self.column)):
            what = "`answer_pattern` finds nothing in its answer, so no answer could be right"
            raise RowFaultError(what, "correct the row or the pattern")

    def measure(self, golds: Sequence[Gold], answers: Sequence[Any]) -> Mapping[str, Measure]:
        """`exact_match`."""
        return {self.figure: share(judged(self, golds, answers, self._is_right))}

    def _is_right(self, gold: Gold, answer: str) -> bool:
        """Compare an answer with the expected text, and with that text as training renders it."""
        found = extract_answer(answer, self.answer_pattern)
        expected = [gold.expected(self.column), *([gold.rendered] if gold.rendered and not self.column else [])]
        return any(is_match(found, extract_answer(one, self.answer_pattern)) for one in expected)

    def _extracted(self, text: str) -> str:
        try:
            return extract_answer(text, self.answer_pattern)
        except OverrunError as error:
            raise EndlessRowError(f"`answer_pattern` {error} on its answer", SIMPLER_PATTERN) from None
