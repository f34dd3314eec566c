"""A source of rows, and the selection of rows from it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lora_ns.data.rows import Row
from lora_ns.errors import DataError, Problem
from lora_ns.formats import Columns, Format
from lora_ns.recipe.dataset import Dataset
from lora_ns.recipe.slices import parse_slice


@dataclass(frozen=True)
class Source:
    """Rows of some files or of a split, with their identity."""

    name: str
    rows: Sequence[Row]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Class names by column, in the order of their ids, if the dataset has them."""
    left_out: Sequence[Problem] = ()
    """Problems of the unreadable rows that were left out."""
    notes: tuple[str, ...] = ()
    """Notes on the way its files were read, if their names do not tell."""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 over the rows and their formats."""
        digest = hashlib.sha256()
        for row in self.rows:
            if row.form is not None:
                digest.update(f"{row.form.name}{columns_of(row.form)}".encode())
            digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class UnusedColumns:
    """Columns of one source that its format does not read."""

    problem: Problem
    is_refused: bool
    """True if a row probably loses content, so that it is not trained on."""


@dataclass(frozen=True)
class Part:
    """One of several sources: its rows, their format, and the number trained on."""

    key: str
    """Its key in the recipe, such as `dataset.sources.1`."""
    table: Dataset
    source: Source
    """Its training rows, without those held out."""
    form: Format
    why: str
    weight: float | None = None
    used: int = 0
    held_out: int = 0

    @property
    def repeated(self) -> int:
        """Number of repetitions among the rows trained on."""
        return max(0, self.used - len(self.source.rows))


@dataclass(frozen=True)
class Sources:
    """The rows of a recipe and their format."""

    train: Source
    eval: Source | None
    format: Format
    """Format of the rows that do not have their own."""
    why: str
    """Reason for this format."""
    parts: tuple[Part, ...] = ()
    """The sources of the training rows, if there are several."""
    is_stream: bool = False
    """True if the training rows are only the first ones of a stream."""
    unused: tuple[UnusedColumns, ...] = ()
    """Unread columns of each source."""

    @property
    def columns(self) -> Columns:
        """The columns that the format reads."""
        return columns_of(self.format)


def columns_of(form: Format) -> Columns:
    """Return the columns that a format reads."""
    columns: Columns = form.columns  # type: ignore[attr-defined]
    return columns


def selection_of(table: Dataset, key: str = "dataset", for_evaluation: bool = False) -> Selection:
    """Return the selection of rows that the recipe asks for."""
    if for_evaluation:
        return Selection(f"{key}.eval_slice", table.eval_slice, table.max_eval_samples)
    return Selection(f"{key}.slice", table.slice, table.max_samples)


@dataclass(frozen=True)
class Selection:
    """A selection of rows of a source."""

    key: str
    slice: str | None
    limit: int | None

    def begin(self) -> int | None:
        """Return the index of the first row, from 0; None if it depends on the number of rows."""
        start = parse_slice(self.slice or ":").start
        if start is None:
            return 0
        return None if start.is_percent or start.number < 0 else start.number

    def reach(self) -> int | None:
        """Return the number of rows to read; None for all."""
        stop, begin = parse_slice(self.slice or ":").reach(), self.begin()
        if self.limit is None or begin is None:
            return stop
        most = begin + self.limit
        return most if stop is None else min(stop, most)

    def of(self, count: int, name: str) -> range:
        """Return the indices of the rows, from 0. Raises `DataError` if there are none."""
        part = parse_slice(self.slice or ":").of(count)
        if count and not part:
            what = f"no row of {name} is in `{self.slice}`"
            raise DataError(Problem("", what, f"there are {count:,}", key=self.key))
        return part[: self.limit]
