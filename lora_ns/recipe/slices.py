"""Slices of rows, such as `1000:2000`, `:10%` or `-500:`, with the syntax of `datasets` split slicing."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOUND = re.compile(r"(-?\d+)(%?)")


@dataclass(frozen=True)
class Bound:
    """Start or end of a slice: a row, counted from the end if negative, or a percentage of the rows."""

    number: int
    is_percent: bool = False

    def of(self, count: int) -> int:
        """Return the row index among `count` rows; a percentage is rounded to the closest row."""
        return round(self.number * count / 100) if self.is_percent else self.number


@dataclass(frozen=True)
class Slice:
    """Rows from a start up to, but not including, a stop."""

    start: Bound | None
    stop: Bound | None

    def of(self, count: int) -> range:
        """Return the indices of the rows, from 0, among `count` rows."""
        start, stop = (None if bound is None else bound.of(count) for bound in (self.start, self.stop))
        return range(count)[start:stop]

    @property
    def is_from_begin(self) -> bool:
        """True if the slice does not depend on the number of rows."""
        return _is_from_begin(self.start, self.stop)

    def reach(self) -> int | None:
        """Return the number of rows, from the first, that determine the slice; None if all of them do."""
        return None if self.stop is None or not self.is_from_begin else self.stop.number


def _is_from_begin(*bounds: Bound | None) -> bool:
    return all(bound is None or (not bound.is_percent and bound.number >= 0) for bound in bounds)


def parse_slice(text: str) -> Slice:
    """Parse a slice as written in a recipe.

    Raises:
        ValueError: with the reason if it is not a slice.
    """
    parts = [part.strip() for part in text.split(":")]
    if len(parts) != 2:
        raise ValueError("no `:`" if len(parts) == 1 else "more than one `:`")
    start, stop = (_bound(part) for part in parts)
    if start and stop and start.is_percent != stop.is_percent:
        raise ValueError("it mixes rows and percent")
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
        raise ValueError(f"`{text}` is not a whole number or a whole percentage")
    number = int(found[1])
    if found[2] and abs(number) > 100:
        raise ValueError(f"`{text}` is more than all rows")
    return Bound(number, bool(found[2]))
