"""The common start of `lorans infer` and `lorans eval`: a run and its worker processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.cli.options import asked_processes
from lora_ns.cli.show import Progress, note

if TYPE_CHECKING:
    from lora_ns.answers.opened import Opened
    from lora_ns.answers.work import Compute
    from lora_ns.machine.hardware import Machine
    from lora_ns.run.directory import RunDir
    from lora_ns.run.manifest import Manifest


@dataclass(frozen=True)
class AskedRun:
    """A run to use, and the number of processes to use it with."""

    folder: RunDir
    manifest: Manifest
    machine: Machine
    processes: int

    @classmethod
    def of(cls, path: Path, num_processes: int | None, gpus: str | None, does: str) -> AskedRun:
        """Open the run in a directory.

        Args:
            path: the directory.
            num_processes: value of `--num-processes`.
            gpus: value of `--gpus`.
            does: verb of the command, for messages.

        Raises:
            UsageError: if it is no run, or this machine has fewer processors.
        """
        from lora_ns.launch.torchrun import check_not_launched
        from lora_ns.launch.workers import count_workers
        from lora_ns.machine.hardware import detect
        from lora_ns.run.directory import RunDir

        check_not_launched(os.environ)
        asked, folder = asked_processes(num_processes, gpus, does), RunDir.open_to_use(path, note)
        manifest, machine = folder.read(), detect()
        count = count_workers(asked, gpus is not None, manifest.plan.device.value, machine)
        return cls(folder, manifest, machine, count)

    def compute(self, opened: Opened, progress: Progress, base: Path | None, dtype: str | None, force: bool) -> Compute:
        """Return the function that computes answers, in this process or in workers that open the run likewise."""
        from lora_ns.launch.answering import Workers, compute_by

        workers = Workers(self.processes, self.machine, base, dtype, force)
        return compute_by(workers, opened, progress.rows, progress.warn)
