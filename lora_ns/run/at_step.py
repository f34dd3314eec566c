"""A run with the adapter of one of its steps in the place of the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lora_ns.files.disk import hash_folder
from lora_ns.run.directory import RunDir
from lora_ns.run.lineage import Chain
from lora_ns.run.manifest import Manifest
from lora_ns.run.metrics import read_metrics


class RunAtStep(RunDir):
    """A run that is used with the adapter of a checkpoint, or with its best one. Its manifest describes that adapter.

    What the run kept of the trained model at its end, such as its answers to probes, is not that adapter's.
    """

    chain: Chain | None
    """The chain of the run up to the adapter; None if the run began without one."""

    def __init__(self, path: Path, adapter: Path, step: int, chain: Chain | None = None) -> None:
        """Use the adapter of a folder.

        Args:
            path: the run directory.
            adapter: folder of the adapter, complete and intact.
            step: its step.
            chain: the chain of the run up to the adapter, if something is made of it.
        """
        super().__init__(path)
        self.chain = chain
        self._adapter, self.step, self._hashes = adapter, step, hash_folder(adapter)

    @property
    def adapter(self) -> Path:
        """The adapter of the step."""
        return self._adapter

    @property
    def probes(self) -> Path:
        """A file that does not exist: the answers of this adapter were not kept."""
        return self._adapter / super().probes.name

    def read(self) -> Manifest:
        """The manifest of the run, with the files and the metrics of this adapter."""
        found = super().read()
        update = {"adapter": self._hashes, "adapter_step": self.step, "seal": None, "metrics": self._measured()}
        return found.model_copy(update=update)

    def _measured(self) -> dict[str, Any]:
        """The metrics of the evaluation at the step, if there was one."""
        rows = [row for row in read_metrics(self.metrics).rows if row["step"] == self.step]
        return {key: value for row in rows for key, value in row.items() if key.startswith("eval_")}

    @property
    def _directory(self) -> RunDir:
        return RunDir(self.path)._directory
