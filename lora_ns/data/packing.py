"""How many rows packing makes of rows of known lengths."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

_PACKED_AT_ONCE = 1000
"""Rows that TRL packs together: the batch size of `datasets.Dataset.map`."""


def packed_rows(lengths: Sequence[int], limit: int) -> int:
    """Count the rows that `trl.pack_dataset` makes with the strategy `bfd`, without packing any.

    Args:
        lengths: tokens of each row, in the order of the dataset.
        limit: the most tokens of a packed row; longer rows are truncated.
    """
    parts = (lengths[start : start + _PACKED_AT_ONCE] for start in range(0, len(lengths), _PACKED_AT_ONCE))
    return sum(_best_fit(part, limit) for part in parts)


def _best_fit(lengths: Sequence[int], limit: int) -> int:
    """Put each row, the longest first, into the packed row with the least room that suffices."""
    rooms: list[int] = []
    count = 0
    for length in sorted((min(length, limit) for length in lengths if length), reverse=True):
        place = bisect_left(rooms, length)
        if place < len(rooms):
            room = rooms.pop(place)
        else:
            room = limit
            count += 1
        if room > length:
            insort(rooms, room - length)
    return count
