"""A run that another process writes."""

from __future__ import annotations

from pathlib import Path

from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest


class FollowedRun(RunDir):
    """A run as a rank other than the first sees it: it reads, and leaves all writing to the first.

    Its own rows of metrics are kept beside what else the ranks tell.
    """

    def __init__(self, path: Path, rank: int) -> None:
        super().__init__(path)
        self._rank = rank

    @property
    def metrics(self) -> Path:
        """The rows of this rank."""
        return self.ranks / f"rank{self._rank}.metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the libraries say in this rank."""
        return self.ranks / f"rank{self._rank}.log"

    def write(self, manifest: Manifest) -> Manifest:
        """Nothing: the manifest is written by the first rank."""
        return manifest

    def forget_replaced(self) -> None:
        """Nothing."""
