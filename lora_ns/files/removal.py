"""Removing what a run wrote, and nothing that a link in its place names: checkpoints may be kept on another disk."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link, whose target stays; as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
