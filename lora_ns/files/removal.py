"""Removal of files of a run. Links are not followed, since checkpoints may be on another disk."""

from __future__ import annotations

import shutil
from pathlib import Path


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link without its target. In folders, errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
