"""A run that another process writes."""

from __future__ import annotations

from pathlib import Path

from lora_ns.run.directory import RunDir
from lora_ns.run.manifest import Manifest


class FollowedRun(RunDir):
    """The run in a rank other than the first: it reads, and leaves all writing to the first rank.

    Its own metrics are among the reports of the ranks.
    """

    def __init__(self, path: Path, rank: int) -> None:
        super().__init__(path)
        self._rank = rank

    @property
    def metrics(self) -> Path:
        """The metrics of this rank."""
        return self.ranks / f"rank{self._rank}.metrics.jsonl"

    @property
    def log(self) -> Path:
        """Output of the libraries in this rank."""
        return self.ranks / f"rank{self._rank}.log"

    def write(self, manifest: Manifest) -> Manifest:
        """Do nothing, because the first rank writes the manifest."""
        return manifest

    def forget_replaced(self) -> None:
        """Do nothing."""
