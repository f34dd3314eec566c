"""Processes of this machine that each answer a part of the rows: how many, what each sees, and how they end.

They do not talk to each other: each reads its share from a file, and leaves what it found in another.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lora_ns.errors import InterruptedRunError, LoransError, Problem, RunError, UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.launch.torchrun import environment, error_told, told_error
from lora_ns.machine.hardware import Machine
from lora_ns.safety.interpreter import interpreter
from lora_ns.safety.printable import make_file_readable

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class WorkerFiles:
    """The files of one process, in the folder of all."""

    folder: Path
    number: int
    """From 0."""

    @property
    def share(self) -> Path:
        """What it computes."""
        return self.folder / f"share{self.number}.json"

    @property
    def done(self) -> Path:
        """A byte for every item that is done."""
        return self.folder / f"done{self.number}"

    @property
    def part(self) -> Path:
        """What it found, a line for each batch as soon as that is done."""
        return self.folder / f"part{self.number}.jsonl"

    @property
    def error(self) -> Path:
        """What went wrong."""
        return self.folder / f"error{self.number}.json"

    @property
    def log(self) -> Path:
        """What it and its libraries print."""
        return self.folder / f"{self.number}.log"


def count_workers(asked: int | Literal["auto"] | None, by_gpu: bool, device: str, machine: Machine) -> int:
    """How many processes answer.

    Args:
        asked: so many, one for each GPU, or one.
        by_gpu: whether they are asked for as GPUs.
        device: what the run computes on: `cuda`, `mps` or `cpu`.
        machine: what there is.

    Raises:
        UsageError: if there is not a device, or a core, for each.
    """
    if asked is None:
        return 1
    if device == "mps" and asked != 1:
        raise UsageError(Problem("", "an Apple GPU answers in one process", "leave `--num-processes` away"))
    if by_gpu and device == "cpu":
        what = "this run was trained on a CPU, and answers on one"
        raise UsageError(Problem("--gpus", what, "`--num-processes N` divides its cores"))
    kind, most = ("GPU", len(machine.gpus)) if device == "cuda" else ("core", machine.cores)
    count = most if asked == "auto" else asked
    if count > most or not count:
        have = f"{most} {kind}{'s' * (most != 1)}"
        what = f"{count} processes, and there {'is' if most == 1 else 'are'} {have} here"
        remedy = f"write at most {most}" if most else "it was trained on a GPU, and answers on one"
        raise UsageError(Problem("", what, remedy))
    return count


def worker_environments(
    surroundings: Mapping[str, str], count: int, device: str, machine: Machine
) -> list[dict[str, str]]:
    """The environment of each process: its GPU, or its part of the cores, and nothing of other launchers."""
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
    """Run a process for each environment to its end; each finds its share in the folder.

    Args:
        folder: holds the files of all.
        environments: from `worker_environments`.
        tell: told how many items are done.
        stopped: the number of the signal that asks for a stop, or 0.

    Raises:
        LoransError: what the first one that failed says, with its number; the others are ended.
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
                raise InterruptedRunError(number, Problem("", "stopped before all was answered"))
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for child in children:
            _end(child)


def _start(files: WorkerFiles, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process; its standard input is open for as long as this process lives."""
    command = [*interpreter(), "-m", "lora_ns", "worker", str(files.folder), str(files.number)]
    with files.log.open("ab") as log:
        return subprocess.Popen(
            command, env=dict(env), stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process, which has nothing to save, and whatever it started."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.stdin:
        child.stdin.close()


def _failure(files: WorkerFiles, code: int, count: int) -> LoransError:
    """What a process says that failed, or how it ended."""
    who = f"process {files.number + 1} of {count}" if count > 1 else "a process beside this one"
    told = json.loads(files.error.read_text(encoding="utf-8")) if files.error.exists() else None
    if told and told["expected"]:
        return told_error(told, who)
    handle, kept = tempfile.mkstemp(prefix="lorans-", suffix=".log")
    os.close(handle)
    shutil.copyfile(files.log, kept)
    make_file_readable(Path(kept))
    if told:
        return RunError(Problem("", f"{who}: {told['problems'][0]['what']}", f"{kept} has the traceback"))
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    remedy = "fewer processes need less memory; " if code == -signal.SIGKILL and count > 1 else ""
    return RunError(Problem("", f"{who} {how}", f"{remedy}{kept} has what it said"))


@contextlib.contextmanager
def telling_parent(files: WorkerFiles) -> Iterator[None]:
    """Write down what goes wrong in a process, where the one that started it looks for it."""
    try:
        yield
    except Exception as error:
        said = Problem("", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        write_atomic(files.error, json.dumps(error_told(error, said)))
        raise


def end_group() -> None:
    """End this process at once, and what it has started if it leads a process group."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def end_with_parent(end: Callable[[], object] = end_group) -> None:
    """End this process as soon as the one that started it is gone, however that ended.

    Its standard input has to be a pipe, which the parent holds open for as long as it lives.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()
