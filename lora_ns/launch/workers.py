"""Worker processes of this machine for inference: their number, their environment, their end.

Workers do not communicate with each other. Each reads its share from a file and writes its results to another.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from lora_ns.errors import InterruptedRunError, LoransError, Problem, RunError, UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.launch.torchrun import dump_error, environment, load_error
from lora_ns.machine.hardware import Machine
from lora_ns.safety.interpreter import interpreter
from lora_ns.safety.printable import make_file_readable

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class WorkerFiles:
    """The files of one worker, in the folder of all workers."""

    folder: Path
    number: int
    """Index of the worker, from 0."""

    @property
    def share(self) -> Path:
        """The work of this worker."""
        return self.folder / f"share{self.number}.json"

    @property
    def done(self) -> Path:
        """One byte for every item that is done."""
        return self.folder / f"done{self.number}"

    @property
    def part(self) -> Path:
        """Results, one line for each finished batch."""
        return self.folder / f"part{self.number}.jsonl"

    @property
    def error(self) -> Path:
        """The error, if the worker failed."""
        return self.folder / f"error{self.number}.json"

    @property
    def log(self) -> Path:
        """Output of the worker and its libraries."""
        return self.folder / f"{self.number}.log"


def count_workers(asked: int | Literal["auto"] | None, by_gpu: bool, device: str, machine: Machine) -> int:
    """Number of worker processes.

    Args:
        asked: the number, `auto` for one per GPU (or per core), or None for one.
        by_gpu: whether `--gpus` gave the number.
        device: the device of the run: `cuda`, `mps` or `cpu`.
        machine: this machine.

    Raises:
        UsageError: if there is not a GPU, or a core, for each process.
    """
    if asked is None:
        return 1
    if device == "mps" and asked != 1:
        raise UsageError(Problem("", "an Apple GPU supports one process only", "leave out `--num-processes`"))
    if by_gpu and device == "cpu":
        what = "this run was trained on a CPU, and runs on one"
        raise UsageError(Problem("--gpus", what, "use `--num-processes N` to divide the cores"))
    kind, most = ("GPU", len(machine.gpus)) if device == "cuda" else ("core", machine.cores)
    count = most if asked == "auto" else asked
    if count > most or not count:
        have = f"{most} {kind}{'s' * (most != 1)}"
        what = f"{count} processes, but this machine has {have}"
        remedy = f"write at most {most}" if most else "the run was trained on a GPU, and needs one"
        raise UsageError(Problem("", what, remedy))
    return count


def worker_environments(
    surroundings: Mapping[str, str], count: int, device: str, machine: Machine
) -> list[dict[str, str]]:
    """The environment of each process: its GPU or its share of the cores, without variables of other launchers."""
    shared = environment(surroundings, count, machine.cores)
    if device != "cuda":
        return [shared] * count
    visible = surroundings.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(number) for number in range(count)]
    return [{**shared, "CUDA_VISIBLE_DEVICES": name} for name in names[:count]]


def run_workers(
    folder: Path,
    environments: Sequence[Mapping[str, str]],
    tell: Callable[[int], None],
    stopped: Callable[[], int],
) -> None:
    """Run one process for each environment to its end. Each reads its share from the folder.

    Args:
        folder: the folder with the files of all workers.
        environments: from `worker_environments`.
        tell: called with the number of items done.
        stopped: returns the number of a signal that requests a stop, or 0.

    Raises:
        LoransError: the error of the first worker that failed, with its number; the others are killed.
        InterruptedRunError: after a signal.
    """
    files = [WorkerFiles(folder, number) for number in range(len(environments))]
    children: list[subprocess.Popen[bytes]] = []
    try:
        children += (_start(own, env) for own, env in zip(files, environments, strict=True))
        running = True
        while running:
            codes = [child.poll() for child in children]
            for own, code in zip(files, codes, strict=True):
                if code:
                    raise _failure(own, code, len(files))
            running = None in codes
            tell(sum(own.done.stat().st_size for own in files if own.done.exists()))
            if number := stopped():
                raise InterruptedRunError(number, Problem("", "stopped before all rows were done"))
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for child in children:
            _end(child)


def _start(files: WorkerFiles, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker, with a standard input that stays open while this process lives."""
    command = [*interpreter(), "-m", "lora_ns", "worker", str(files.folder), str(files.number)]
    with files.log.open("ab") as log:
        return subprocess.Popen(
            command, env=dict(env), stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a worker, which has nothing to save, together with its children."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdin:
        child.stdin.close()


def _failure(files: WorkerFiles, code: int, count: int) -> LoransError:
    """The error that a failed worker reported, or else its exit."""
    who = f"process {files.number + 1} of {count}" if count > 1 else "a child process"
    report = json.loads(files.error.read_text(encoding="utf-8")) if files.error.exists() else None
    if report and report["expected"]:
        return load_error(report, who)
    handle, kept = tempfile.mkstemp(prefix="lorans-", suffix=".log")
    os.close(handle)
    shutil.copyfile(files.log, kept)
    make_file_readable(Path(kept))
    if report:
        return RunError(Problem("", f"{who}: {report['problems'][0]['what']}", f"the traceback is in {kept}"))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    remedy = "fewer processes need less memory; " if code == -signal.SIGKILL and count > 1 else ""
    return RunError(Problem("", f"{who} {how}", f"{remedy}see {kept}"))


@contextlib.contextmanager
def reporting_to_parent(files: WorkerFiles) -> Iterator[None]:
    """Write the error of a worker to the file that its parent reads."""
    try:
        yield
    except Exception as error:
        problem = Problem("", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        write_atomic(files.error, json.dumps(dump_error(error, problem)))
        raise


def end_group() -> None:
    """End this process at once, together with its process group if it leads one."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def end_done() -> NoReturn:
    """End this process, whose work is done, without the destructors of its libraries.

    A thread of theirs that still runs would abort it: PyTorch's with "terminate called without an active exception".
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def end_with_parent(end: Callable[[], object] = end_group) -> None:
    """End this process as soon as its parent is gone, however the parent ended.

    Standard input must be a pipe that the parent holds open while it lives.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()
