"""The places of prepared rows in the files that they were read from, kept short: rows mostly follow one another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from lora_ns.errors import UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.files.reading import LARGEST_LIST, is_file, read_json

Stretch = tuple[str, int, int]
"""Rows that follow one another: their file, the number of the first one, and how many they are."""


def stretches(places: Iterable[str]) -> list[Stretch]:
    """Join places such as `train.jsonl:17` that follow one another; one without a number is a stretch of its own."""
    found: list[Stretch] = []
    for place in places:
        path, _, last = place.rpartition(":")
        file = Path(path).name if Path(path).is_absolute() else path  # cached rows may have been read elsewhere
        number = int(last) if file and last.isdecimal() else 0
        if str(number) != last or not number:
            found.append((place, 0, 1))
            continue
        before = found[-1] if found else ("", 0, 0)
        if before[0] == file and before[1] and before[1] + before[2] == number:
            found[-1] = (file, before[1], before[2] + 1)
        else:
            found.append((file, number, 1))
    return found


def place_of(found: Sequence[Stretch], row: int) -> str | None:
    """The place of a row, counted from 1; None if there is none."""
    for file, first, count in found:
        if row <= count:
            return f"{file}:{first + row - 1}" if first else file
        row -= count
    return None


def write_places(file: Path, found: Sequence[Stretch]) -> None:
    """Write the places of rows. Raises `RunError`."""
    write_atomic(file, json.dumps(found, ensure_ascii=False))


def read_places(file: Path) -> list[Stretch]:
    """Read the places of rows; empty if there is no such file, as in runs of old versions, or it is damaged."""
    if not is_file(file):
        return []
    try:
        return as_stretches(read_json(file, most=LARGEST_LIST))
    except (UsageError, ValueError, TypeError):
        return []


def as_stretches(table: object) -> list[Stretch]:
    """Stretches as they are read from JSON. Raises `ValueError` or `TypeError`."""
    if not isinstance(table, list):
        raise TypeError(type(table).__name__)
    return [(str(file), int(first), int(count)) for file, first, count in table]
