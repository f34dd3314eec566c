"""Planned and measured memory of the runs of this machine, in lorans' cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from pathlib import Path

from lora_ns.errors import LoransError
from lora_ns.files.disk import write_atomic
from lora_ns.files.own_cache import cache_folder
from lora_ns.files.reading import read_text

MOST = 200
"""Runs that are remembered for each machine."""

_LARGEST = 1_000_000


def remember(device: str, planned: int, measured: int) -> None:
    """Add a run of this machine and forget the oldest ones. A folder that cannot be written is no reason to fail."""
    file = _file()
    entry = json.dumps({"device": device, "planned": planned, "measured": measured})
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, "\n".join([*_lines(file), entry][-MOST:]) + "\n")


def remembered(device: str) -> list[tuple[int, int]]:
    """Return planned and measured bytes of the runs of this machine on a kind of device, oldest first."""
    found = []
    for line in _lines(_file()):
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            if entry["device"] == device:
                found.append((int(entry["planned"]), int(entry["measured"])))
    return found


def _file() -> Path:
    """Return the file of this machine; a cache folder may be shared by several."""
    name = hashlib.sha256(platform.node().encode()).hexdigest()[:12]
    return cache_folder() / f"memory-{name}.jsonl"


def _lines(file: Path) -> list[str]:
    """Return the lines of a file, none if it is missing or damaged."""
    try:
        return read_text(file, most=_LARGEST).splitlines()
    except (LoransError, OSError):
        return []
