"""The folder in which lorans keeps what it can compute again, across runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: `LORANS_CACHE`, or `lorans` in the user's cache folder."""
    named = os.environ.get("LORANS_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lorans"
