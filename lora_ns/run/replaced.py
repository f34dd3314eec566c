"""The run that a new one replaces, put aside until the new one has completed a step.

It is in hidden folders of the run directory. Each change from one to the next is a single rename, so that whatever
a killed process leaves says what it is:

- `.replacing`: a part of an old run, whose other parts are in their places; nothing of a new run is there.
- `.replaced`: a whole old run; what is in its place is a new one without a complete step.
- `.forgotten`: an old run whose place the new one has taken, to be removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lora_ns.files.removal import remove


class Replaced:
    """What is put aside of one run directory."""

    def __init__(self, path: Path, parts: Sequence[Path]) -> None:
        """`parts` are the files and folders of a run; everything else in the directory is left alone."""
        self._path, self._parts = path, parts
        self.whole = path / ".replaced"
        self._partial, self._forgotten = path / ".replacing", path / ".forgotten"

    @property
    def folders(self) -> tuple[Path, ...]:
        """The hidden folders, whether they are there or not."""
        return self._partial, self.whole, self._forgotten

    @property
    def is_partial(self) -> bool:
        """Whether a process was killed while it moved a run."""
        return self._partial.exists()

    @property
    def is_left(self) -> bool:
        """Whether a process that was killed left anything."""
        return self.whole.exists() or self._partial.exists() or self._forgotten.exists()

    def put_aside(self) -> None:
        """Move the run that is there, and make room."""
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
        """Put the old run in its place again, and remove what is there of a new one; whether there was an old one."""
        if self.whole.exists():
            self._clear(self._parts)
            self.whole.rename(self._partial)
        if not self._partial.exists():
            return False
        for part in sorted(self._partial.iterdir()):
            place = self._path / part.name
            self._clear([place])  # empty, unless something could not be removed before
            part.rename(place)
        self._partial.rmdir()
        return True

    def forget(self) -> None:
        """Remove the old run: the new one has taken its place."""
        if self.whole.exists():
            self.whole.rename(self._forgotten)
        self.clear_forgotten()

    def clear_forgotten(self) -> None:
        """Remove what is left of an old run that a new one has replaced."""
        remove(self._forgotten)

    def _clear(self, parts: Sequence[Path]) -> None:
        for part in parts:
            remove(part)
