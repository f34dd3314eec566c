"""Rows with their places, and functions that process them one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lora_ns.errors import DataError, Problem
from lora_ns.formats import Format, RowFaultError

MOST_PROBLEMS = 5
"""Problems to show for one file; the rest is counted."""


@dataclass(frozen=True)
class Row:
    """One row and its place, such as `train.jsonl:17`."""

    where: str
    values: Mapping[str, Any]
    form: Format | None = field(default=None, compare=False)
    """Its format, if the rows of several sources have different formats."""


Outcome = Row | Problem


@dataclass(frozen=True)
class Found:
    """The rows that were read, and the problems of those that were left out."""

    rows: list[Row]
    left_out: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """Notes on the way the files were read, if their names do not tell."""


def left_out_note(problems: Sequence[Problem]) -> str:
    """Describe the number of unreadable rows that were left out, and the first of them."""
    return f"{len(problems):,} left out as unreadable, the first at {problems[0].where}"


OnRows = Callable[[int, int], None]
"""Called with the number of rows that are done, and the number of all rows."""


def ignore_rows(done: int, total: int) -> None:
    """Report nothing."""


T = TypeVar("T")


def for_each(rows: Sequence[Row], read: Callable[[Row], T]) -> list[T]:
    """Apply `read` to each row in order.

    Raises:
        DataError: with all rows for which it raised `RowFaultError`.
    """
    found, problems = try_each(rows, read)
    if problems:
        raise DataError(shortened(problems))
    return found


class Each(Protocol):
    """A function that reads rows one by one, such as `for_each`."""

    def __call__(self, rows: Sequence[Row], read: Callable[[Row], T]) -> list[T]:
        """Apply `read` to each row in order. Raises `DataError`."""


@dataclass
class Tolerant:
    """Reads rows like `for_each`, but leaves out those that cannot be read, and keeps their problems."""

    faults: dict[int, Problem] = field(default_factory=dict)
    """Problems by the index of the row."""

    def __call__(self, rows: Sequence[Row], read: Callable[[Row], T]) -> list[T]:
        """Apply `read` to each row in order. Raises `DataError` at a fault that ends the processing."""
        found: list[T] = []
        for number, row in enumerate(rows):
            try:
                found.append(read(row))
            except RowFaultError as fault:
                self.faults[number] = Problem(row.where, fault.what, fault.remedy, fault.code)
                if fault.is_last:
                    raise DataError(shortened([*self.faults.values()])) from None
        return found


def try_each(rows: Sequence[Row], read: Callable[[Row], T]) -> tuple[list[T], list[Problem]]:
    """Apply `read` to each row, and collect the problems of those for which it raised `RowFaultError`.

    Raises:
        DataError: with the problems so far, at a fault that ends the processing.
    """
    each = Tolerant()
    return each(rows, read), [*each.faults.values()]


def shortened(problems: list[Problem]) -> list[Problem]:
    """Shorten a list of problems to the first few, and the number of the others."""
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], Problem("", f"and {len(problems) - MOST_PROBLEMS:,} more like these")]


def no_rows(path: Path) -> Problem:
    """Create the problem of a file without rows."""
    return Problem(str(path), "no rows", "it needs at least one row")
