"""A run that is being replaced, put aside until the new one has completed a step.

It is kept in hidden folders of the run directory. Each transition is a single rename, so that the leftovers of a killed
process are unambiguous:

- `.replacing`: a part of the old run, whose other parts are in place. Nothing of the new run exists.
- `.replaced`: the complete old run. The new run in its place has not completed a step.
- `.forgotten`: the old run after the new one has taken its place, to be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_ns.files.removal import remove


class Replaced:
    """The parts of a run directory that are put aside."""

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        """`parts` are the files and folders of a run; everything else in the directory is left alone."""
        self._path, self._parts = path, parts
        self.whole = path / ".replaced"
        self._partial, self._forgotten = path / ".replacing", path / ".forgotten"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The hidden folders, existing or not."""
        return self._partial, self.whole, self._forgotten

    @property
    def is_partial(self) -> bool:
        """True if a process was killed while it moved a run."""
        return self._partial.exists()

    @property
    def is_left(self) -> bool:
        """True if a killed process left anything."""
        return self.whole.exists() or self._partial.exists() or self._forgotten.exists()

    def put_aside(self) -> None:
        """Move the existing run aside to make room."""
        self.bring_back()
        self.clear_forgotten()
        there = [part for part in self._parts if part.exists() or part.is_symlink()]
        if not there:
            return
        self._partial.mkdir()
        for part in there:
            part.rename(self._partial / part.name)
        self._partial.rename(self.whole)

    def bring_back(self) -> bool:
        """Restore the old run and remove all of the new one; returns True if there was an old one."""
        if self.whole.exists():
            self._clear(self._parts)
            self.whole.rename(self._partial)
        if not self._partial.exists():
            return False
        for part in sorted(self._partial.iterdir()):
            place = self._path / part.name
            self._clear([place])  # empty, unless an earlier removal failed
            part.rename(place)
        self._partial.rmdir()
        return True

    def forget(self) -> None:
        """Remove the old run, because the new one has taken its place."""
        if self.whole.exists():
            self.whole.rename(self._forgotten)
        self.clear_forgotten()

    def clear_forgotten(self) -> None:
        """Remove the rest of an old run that was replaced."""
        remove(self._forgotten)

    def _clear(self, parts: Sequence[Path]) -> None:
        for part in parts:
            remove(part)
