"""The rows of evaluation suites, and their check before training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ns.data.audit import Finding, grouped
from lora_ns.data.files.paths import find_files, layout_of
from lora_ns.data.files.read import read_files
from lora_ns.data.rows import Row
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Conversation, Example, Format, RowFaultError, expected_of
from lora_ns.recipe.recipe import Recipe
from lora_ns.statistics.measures import Share
from lora_ns.suites import GlueSuite, Gold, Suite

UNREAD, UNFIT, UNREACHED = "SUITE001", "SUITE002", "SUITE003"
"""Codes of findings: files that cannot be read, rows that cannot be asked, reference answers that do not count."""

MOST_JUDGED = 64
"""Reference answers that are judged as if a model had written them."""


@dataclass(frozen=True)
class Asking:
    """A suite of a recipe with the format of its rows."""

    suite: Suite
    key: str
    form: Format

    def findings(self, rows: Sequence[Row]) -> Iterator[Finding]:
        """Yield the faults of its rows: those that cannot be asked, or that no answer can satisfy."""
        golds: list[Gold] = []
        problems: list[Problem] = []
        for row in rows:
            try:
                golds.append(self._gold(row))
            except RowFaultError as fault:
                problems.append(Problem(row.where, f"{self.key}: {fault.what}", fault.remedy, UNFIT))
                if fault.is_last:
                    break
        yield from grouped(problems)
        yield from self._unreached(golds)

    def _gold(self, row: Row) -> Gold:
        """Return the row as the suite reads it. Raises `RowFaultError`."""
        for name in ("group_by", "cluster_by"):
            column = getattr(self.suite, name)
            if column is not None and column not in row.values:
                raise RowFaultError(f"no column `{column}`, which `{name}` names", "add it, or name another column")
        if isinstance(self.suite, GlueSuite):
            self.suite.in_columns_of(self.form, (), row.values)
            return Gold(row.where, None, row.values)
        if self.suite.asks == "loss":
            self.form.example(row.values)
            return Gold(row.where, None, row.values)
        prompt_of(self.form, self.suite, row)
        gold = gold_of(self.form, row)
        self.suite.check(gold)
        return gold

    def _unreached(self, golds: Sequence[Gold]) -> Iterator[Finding]:
        """Yield the rows whose own reference answers count as wrong."""
        answered = [gold for gold in golds if gold.answer and not gold.tool_calls][:MOST_JUDGED]
        if not answered or self.suite.asks != "write" or self.suite.is_against_base:
            return
        try:
            measure = next(iter(self.suite.measure(answered, [gold.answer for gold in answered]).values()))
        except DataError as error:
            yield from _told(self.key, error, UNFIT)
            return
        if not isinstance(measure, Share) or measure.scores is None:
            return
        wrong = tuple(gold.where for gold, score in zip(answered, measure.scores, strict=True) if not score)
        if wrong:
            what = f"{self.key}: the reference answer counts as wrong, for {len(wrong)} of {len(answered)} rows"
            remedy = "correct the answers, or the settings of the suite"
            yield Finding(UNREACHED, what, wrong, remedy, error=len(wrong) == len(answered))


def prompt_of(form: Format, suite: Suite, row: Row) -> Example:
    """The prompt of a row: a question of the suite's own, or in the format of the run. Raises `RowFaultError`."""
    own = suite.own_question(row.values)
    if own is None:
        return form.prompt(row.values)
    if suite.prefers_format:
        with contextlib.suppress(RowFaultError):
            return form.prompt(row.values)
    column, question = own
    values = {**row.values, column: question}
    try:
        return form.prompt({**values, **form.question(question)})
    except RowFaultError:
        return form.prompt(values)


def gold_of(form: Format, row: Row) -> Gold:
    """Return the reference answer of a row with its tool calls; without one, only its columns."""
    calls: tuple[Mapping[str, Any], ...] = ()
    try:
        expected = expected_of(form.example(row.values))
        last = expected.messages[-1] if isinstance(expected, Conversation) and expected.messages else None
        calls = tuple(last.extra.get("tool_calls", ())) if last else ()
        answer = None if last and calls and not last.content else form.answer(row.values)
    except RowFaultError as fault:
        return Gold(row.where, None, row.values, tool_calls=calls, lacking=fault)
    return Gold(row.where, answer, row.values, tool_calls=calls)


def suite_findings(recipe: Recipe, folder: Path, form: Format, usual: Sequence[Row]) -> Iterator[Finding]:
    """Read the rows of all suites of a recipe, and yield their faults.

    Args:
        recipe: the recipe.
        folder: its folder.
        form: the format of its rows.
        usual: the evaluation rows, which suites without a file ask.
    """
    for number, suite in enumerate(recipe.evaluation.suites):
        if suite.asks == "itself":
            continue  # its rows are not in the format of the run
        key = f"evaluation.suites.{number}"
        try:
            rows = read_suite(suite, key, recipe, folder) if suite.path else usual[: suite.max_samples]
        except DataError as error:
            yield from _told(key, error, UNREAD)
        else:
            yield from Asking(suite, key, form).findings(rows)


def _told(key: str, error: DataError, code: str) -> list[Finding]:
    """Return the problems of an error as findings about a suite."""
    return grouped([Problem(one.where, f"{key}: {one.what}", one.remedy, code) for one in error.problems])


def read_suite(suite: Suite, key: str, recipe: Recipe, folder: Path) -> list[Row]:
    """Read the rows of a suite's own file, or its first `max_samples`.

    Raises:
        DataError: if there is no such file, or it has no rows, or a row cannot be read.
    """
    files = find_files(folder, suite.path or (), f"{key}.path")
    return read_files(files, suite.max_samples, layout=layout_of(recipe.dataset)).rows


def check_suites(recipe: Recipe, folder: Path, form: Format, usual: Sequence[Row]) -> None:
    """Check the rows of all suites as `suite_findings` does. Raises `DataError`."""
    wrong = [found for found in suite_findings(recipe, folder, form, usual) if found.error]
    if wrong:
        raise DataError([Problem(", ".join(found.rows[:3]), found.what, found.remedy, found.code) for found in wrong])
