"""A source of rows, and which of them are asked for."""

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
    """Rows of some files or of a split, with what tells them from others."""

    name: str
    rows: Sequence[Row]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, the names of its classes in the order of their numbers, where the data set has them."""
    left_out: Sequence[Problem] = ()
    """What is wrong with the rows that cannot be read and were left out."""
    notes: tuple[str, ...] = ()
    """How its files were read, where they do not say so themselves."""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 over the rows and the ways in which they are read."""
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
    """Whether a row is likely to lose a part of what it says, so that it is not trained on."""


@dataclass(frozen=True)
class Part:
    """One of several sources: its rows, how they are read, and how many of them are trained on."""

    key: str
    """Where the recipe says it, such as `dataset.sources.1`."""
    table: Dataset
    source: Source
    """Its rows to train on, those set aside not among them."""
    form: Format
    why: str
    weight: float | None = None
    used: int = 0
    held_out: int = 0

    @property
    def repeated(self) -> int:
        """Rows that are trained on once more than once."""
        return max(0, self.used - len(self.source.rows))


@dataclass(frozen=True)
class Sources:
    """The rows of a recipe and how they are read."""

    train: Source
    eval: Source | None
    format: Format
    """Of the rows, unless a row has its own."""
    why: str
    """Why this format."""
    parts: tuple[Part, ...] = ()
    """Where the training rows come from several sources, those."""
    is_stream: bool = False
    """Whether the training rows are only the first ones of a stream."""
    unused: tuple[UnusedColumns, ...] = ()
    """By source, the columns that are not read."""

    @property
    def columns(self) -> Columns:
        """The columns that the format reads."""
        return columns_of(self.format)


def columns_of(form: Format) -> Columns:
    """The columns that a format reads."""
    columns: Columns = form.columns  # type: ignore[attr-defined]
    return columns


def asked_for(table: Dataset, key: str = "dataset", for_evaluation: bool = False) -> Asked:
    """Which rows of a source the recipe asks for."""
    if for_evaluation:
        return Asked(f"{key}.eval_slice", table.eval_slice, table.max_eval_samples)
    return Asked(f"{key}.slice", table.slice, table.max_samples)


@dataclass(frozen=True)
class Asked:
    """Which rows of a source are asked for."""

    key: str
    slice: str | None
    limit: int | None

    def begin(self) -> int | None:
        """The number of the first row, from 0; None if it is not known before all are read."""
        start = parse_slice(self.slice or ":").start
        if start is None:
            return 0
        return None if start.is_percent or start.number < 0 else start.number

    def reach(self) -> int | None:
        """Rows that have to be read; None if all."""
        stop, begin = parse_slice(self.slice or ":").reach(), self.begin()
        if self.limit is None or begin is None:
            return stop
        most = begin + self.limit
        return most if stop is None else min(stop, most)

    def of(self, count: int, name: str) -> range:
        """The numbers of the rows, from 0. Raises `DataError` if there are none."""
        part = parse_slice(self.slice or ":").of(count)
        if count and not part:
            what = f"no row of {name} is in `{self.slice}`"
            raise DataError(Problem("", what, f"there are {count:,}", key=self.key))
        return part[: self.limit]
