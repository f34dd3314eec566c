"""A part of the rows by its place, `1000:2000`, `:10%` or `-500:`, as `datasets` reads it behind a split's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOUND = re.compile(r"(-?\d+)(%?)")


@dataclass(frozen=True)
class Bound:
    """A row, counted from the end if negative, or a share of the rows in percent."""

    number: int
    is_percent: bool = False

    def of(self, count: int) -> int:
        """The place among so many rows; a share leads to the closest one."""
        return round(self.number * count / 100) if self.is_percent else self.number


@dataclass(frozen=True)
class Slice:
    """Rows from one place up to, but not including, another."""

    start: Bound | None
    stop: Bound | None

    def of(self, count: int) -> range:
        """The numbers of the rows, from 0, among so many."""
        start, stop = (None if bound is None else bound.of(count) for bound in (self.start, self.stop))
        return range(count)[start:stop]

    @property
    def is_from_begin(self) -> bool:
        """Whether it can be told without knowing how many rows there are."""
        return _is_from_begin(self.start, self.stop)

    def reach(self) -> int | None:
        """Rows from the first one on that have to be known to tell the slice; None if all of them."""
        return None if self.stop is None or not self.is_from_begin else self.stop.number


def _is_from_begin(*bounds: Bound | None) -> bool:
    return all(bound is None or (not bound.is_percent and bound.number >= 0) for bound in bounds)


def parse_slice(text: str) -> Slice:
    """A slice as the recipe writes it.

    Raises:
        ValueError: with what is wrong with it.
    """
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 2:
        raise ValueError("not one `:`" if len(parts) == 1 else "more than one `:`")
    start, stop = (_bound(part) for part in parts)
    if start and stop and start.is_percent != stop.is_percent:
        raise ValueError("rows and percent in one slice")
    if start and stop and (start.number < 0) == (stop.number < 0):
        if start.number >= stop.number:
            raise ValueError("it ends before it begins")
    elif stop == Bound(0):
        raise ValueError("it ends before it begins")
    return Slice(start, stop)


def _bound(text: str) -> Bound | None:
    if not text:
        return None
    found = _BOUND.fullmatch(text)
    if found is None:
        raise ValueError(f"`{text}` is no whole number, and no whole number of percent")
    number = int(found[1])
    if found[2] and abs(number) > 100:
        raise ValueError(f"`{text}` is more than all rows")
    return Bound(number, bool(found[2]))
