"""One row and where it stands, and what becomes of rows one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, RowFaultError

MOST_PROBLEMS = 5
"""Problems of one file that are told; the rest is counted."""


@dataclass(frozen=True)
class Row:
    """One row and where it stands, such as `train.jsonl:17`."""

    where: str
    values: Mapping[str, Any]
    form: Format | None = field(default=None, compare=False)
    """How it is read, where the rows of several sources are read in several ways."""


Outcome = Row | Problem


@dataclass(frozen=True)
class Found:
    """The rows that were read, and the problems of those that were left out."""

    rows: list[Row]
    left_out: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """How the files were read, where their names do not say so."""


def told_left_out(problems: Sequence[Problem]) -> str:
    """How many rows were left out because they cannot be read, and where to look."""
    return f"{len(problems):,} left out that cannot be read, the first at {problems[0].where}"


T = TypeVar("T")


def for_each(rows: Sequence[Row], read: Callable[[Row], T]) -> list[T]:
    """What `read` makes of each row, in their order.

    Raises:
        DataError: with the rows for which it raised `RowFaultError`, all of them looked at.
    """
    found, problems = try_each(rows, read)
    if problems:
        raise DataError(told(problems))
    return found


def try_each(rows: Sequence[Row], read: Callable[[Row], T]) -> tuple[list[T], list[Problem]]:
    """What `read` makes of the rows, and the problems of those for which it raised `RowFaultError`.

    Raises:
        DataError: with the problems so far, at a row after which no other is tried.
    """
    found: list[T] = []
    problems: list[Problem] = []
    for row in rows:
        try:
            found.append(read(row))
        except RowFaultError as fault:
            problems.append(Problem(row.where, fault.what, fault.remedy, fault.code))
            if fault.is_last:
                raise DataError(told(problems)) from None
    return found, problems


def told(problems: list[Problem]) -> list[Problem]:
    """The first few of many problems, and how many more there are."""
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], Problem("", f"and {len(problems) - MOST_PROBLEMS:,} more like these")]


def no_rows(path: Path) -> Problem:
    """The problem of a file without rows."""
    return Problem(str(path), "no rows", "put one row into it at least")
