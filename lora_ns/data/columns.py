"""Unread columns of rows: reported, recorded, or refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

from lora_ns.data.source import Source, Sources, UnusedColumns
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Columns, Format, RawText, Unused, find_unused
from lora_ns.formats.cells import listed
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.recipe import Recipe

UNUSED = "DATA004"
"""Code for unread columns."""


def unused_of(
    key: str, table: Dataset, source: Source, form: Format, measured: Collection[str] = ()
) -> UnusedColumns | None:
    """Find the columns of a source that its format does not read; None if there are none, or only metadata.

    Args:
        key: key of the source.
        table: table of the source.
        source: the source.
        form: format of its rows.
        measured: columns that its evaluation reads.
    """
    columns = asked_columns(table)
    columns = replace(columns, ignore_columns=(*columns.ignore_columns, *measured))
    found = find_unused(form, columns, [row.values for row in source.rows])
    if not found.columns:
        return None
    problem = unused_problem(form, found, source.name)
    return UnusedColumns(replace(problem, where="", place=key), bool(found.meant))


def measured_columns(recipe: Recipe, is_evaluation: bool) -> set[str]:
    """Return the columns by which figures are grouped; of evaluation rows, also those that suites compare with."""
    evaluation = recipe.evaluation
    suites = [suite for suite in evaluation.suites if suite.asks_run_rows]
    found = [evaluation.group_by, *(column for suite in suites for column in (suite.group_by, suite.cluster_by))]
    if is_evaluation:
        found += [getattr(suite, "column", None) for suite in suites]
    return {column for column in found if column}


def unused_problem(form: Format, found: Unused, name: str) -> Problem:
    """Create the problem of a source's unread columns."""
    what = f"{name}: not read by `{form.name}`: {listed(found.columns)}"
    names = ", ".join(f'"{column}"' for column in found.meant or found.columns)
    ignore = f"`ignore_columns = [{names}]` if they should not be learned"
    if not found.meant:
        return Problem("", what, ignore, UNUSED)
    if RawText in form.makes:
        what += f"; {listed(found.meant)} may be the answer to the text"
        ignore = f'`columns = {{prompt = "text", completion = "{found.meant[0]}"}}`, or {ignore}'
    else:
        what += f"; {listed(found.meant)} would be lost"
        keys = "`text_column`, `text_pair_column`" if form.name == "classification" else "`columns` or a template"
        ignore = f"select them with {keys}, or {ignore}"
    return Problem("", what, ignore, UNUSED)


def unused_note(problem: Problem) -> str:
    """Format unread columns as a note of a training run."""
    return f"[{UNUSED}] {problem.what} ({problem.remedy})"


def asked_columns(table: Dataset) -> Columns:
    """Return the column settings of a source."""
    return Columns(**{name: getattr(table, name) for name in Columns.__dataclass_fields__})


def refuse_unused(sources: Sources) -> None:
    """Refuse rows that would lose a part of their content. Raises `DataError`."""
    if refused := [unused.problem for unused in sources.unused if unused.is_refused]:
        raise DataError(refused)


def columns_record(columns: Columns) -> dict[str, Any]:
    """Return the columns as stored in the manifest."""
    return asdict(columns)
