"""Where everything of a run is: every name in its directory."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path


class RunPaths:
    """The files and folders of one run, whether they are there or not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def recipe(self) -> Path:
        """The recipe as it was written."""
        return self.path / "recipe.toml"

    @property
    def manifest_file(self) -> Path:
        """The manifest."""
        return self.path / "manifest.json"

    @property
    def metrics(self) -> Path:
        """A row per logging or evaluation step."""
        return self.path / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """What the libraries said."""
        return self.path / "train.log"

    @property
    def checkpoints(self) -> Path:
        """What a run can be resumed from."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter: plain PEFT, with tokenizer, template and generation settings."""
        return self.path / "adapter"

    @property
    def start(self) -> Path:
        """The adapter before its first step, where computing it again could give another one."""
        return self.path / "start"

    @property
    def data(self) -> Path:
        """The rows as the model sees them."""
        return self.path / "data"

    @property
    def ranks(self) -> Path:
        """What the processes of a run tell while it is trained, and what went wrong in each."""
        return self.path / "ranks"

    @property
    def jobs(self) -> Path:
        """What was handed to a scheduler, in folders with numbers; it stays when a run is replaced."""
        return self.path / "jobs"

    @property
    def stop_file(self) -> Path:
        """The number of a signal: the run is to stop after the running step."""
        return self.ranks / "stop"

    @property
    def stopped_file(self) -> Path:
        """The number of the signal that the processes stopped for, on whichever machine it came."""
        return self.ranks / "stopped"

    @property
    def launcher_file(self) -> Path:
        """Who started the processes of this run, where `lorans train` did not: the number of that process."""
        return self.ranks / "launcher"

    @property
    def spare(self) -> Path:
        """Where a process tells of its failure if the disk of the run is full."""
        name = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"lorans-ranks-{name}"

    @property
    def _parts(self) -> tuple[Path, ...]:
        """What a run writes."""
        return (*self._folders, self.recipe, self.manifest_file, self.metrics, self.log)

    @property
    def _folders(self) -> tuple[Path, ...]:
        return (self.checkpoints, self.adapter, self.start, self.data, self.ranks)
