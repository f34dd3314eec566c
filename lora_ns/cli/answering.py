"""The common start of `lorans infer` and `lorans eval`: a run and its worker processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_ns.cli.options import asked_processes
from lora_ns.cli.show import Progress, note
from lora_ns.errors import Problem, UsageError

if TYPE_CHECKING:
    from lora_ns.answers.artefact import Artefact
    from lora_ns.answers.changed_files import Force
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
    artefact: Artefact | None = None
    """What was named, if it is not the run itself but was made from it."""

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

    @classmethod
    def of_place(
        cls, path: Path, num_processes: int | None, gpus: str | None, does: str, against: Path | None = None
    ) -> AskedRun:
        """Open the run in a directory, or find an artefact; like `of`.

        Args:
            path: the directory, or a folder or GGUF file that was made from a run.
            num_processes: value of `--num-processes`.
            gpus: value of `--gpus`.
            does: verb of the command, for messages.
            against: value of `--against`.

        Raises:
            UsageError: if it is neither, or this machine has fewer processors.
        """
        from lora_ns.answers.artefact import find_artefact, is_artefact, is_run
        from lora_ns.launch.torchrun import check_not_launched
        from lora_ns.launch.workers import count_workers
        from lora_ns.machine.hardware import detect
        from lora_ns.run.directory import RunDir

        if not is_artefact(path):
            if against is not None and is_run(path):
                raise UsageError(Problem("--against", f"{path} is a run itself", "leave it out"))
            try:
                return cls.of(path, num_processes, gpus, does)
            except UsageError as error:
                problem = error.problems[0]
                if problem.where != str(path) or is_run(path):
                    raise
                remedy = "name the `output_dir` of a run, or what `lorans export` or `merge` made of one"
                raise UsageError(replace(problem, remedy=remedy)) from None
        check_not_launched(os.environ)
        asked, found, machine = asked_processes(num_processes, gpus, does), find_artefact(path, against), detect()
        count = count_workers(asked, gpus is not None, found.manifest.plan.device.value, machine)
        return cls(RunDir(found.place), found.manifest, machine, count, found)

    @contextlib.contextmanager
    def at_prepared(
        self, checkpoint: str | None, base: Path | None, force: Force, tell: Callable[[str], None]
    ) -> Iterator[AskedRun]:
        """Prepare the libraries, and use the run with the adapter of `--checkpoint`, if it is given.

        Raises:
            LoransError: if there is no such checkpoint, or the base is missing.
        """
        from lora_ns.machine.libraries import prepare

        prepare(self.machine, self.processes)
        from lora_ns.answers.checkpoints import OPTION, at_checkpoint

        if checkpoint is not None and self.artefact is not None:
            what = f"{self.artefact.place} is no run, and has no checkpoints"
            raise UsageError(Problem(OPTION, what, "name the run, or leave it out"))
        with at_checkpoint(self.folder, checkpoint, tell, base, force) as folder:
            yield self if checkpoint is None else replace(self, folder=folder, manifest=folder.read())

    def open(self, base: Path | None, dtype: str | None, force: Force) -> Opened:
        """Open the run or the artefact, without its weights. Raises `LoransError`."""
        from lora_ns.answers.artefact import open_artefact
        from lora_ns.answers.opened import open_run

        if self.artefact is None:
            return open_run(self.folder, base, dtype, force)
        return open_artefact(self.artefact, base, dtype, force)

    def compute(
        self,
        opened: Opened,
        progress: Progress,
        base: Path | None,
        dtype: str | None,
        force: bool,
        beside: Mapping[str, Opened] | None = None,
    ) -> Compute:
        """Return the function that computes answers, in this process or in workers that open the run likewise."""
        from lora_ns.launch.answering import Workers, compute_by

        source = self.artefact.source if self.artefact else None
        workers = Workers(self.processes, self.machine, base, dtype, force, source.path if source else None)
        return compute_by(workers, opened, progress.rows, progress.warn, beside)
