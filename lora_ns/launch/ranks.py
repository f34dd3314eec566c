"""The processes of a run: started, listened to, and in each of them what tells the launcher how it goes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_ns.errors import InterruptedRunError, LoransError, Problem, RunError
from lora_ns.files.disk import write_atomic
from lora_ns.launch.torchrun import argv, environment, error_told, ignored_note, launch, lost_meeting_point, strays
from lora_ns.machine.hardware import Machine
from lora_ns.parallel.nodes import Node, check_port, is_met, resume_command, this_node
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.processes import count_here
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import last_complete_checkpoint
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer


def forget_strays(observer: Observer, processes: int, read: Path | None = None) -> dict[str, str]:
    """Take what launchers set out of this process's environment, and say so; the environment as it was before.

    The number of threads is left to who trains in one process. `read` is a file of accelerate's that is read.
    """
    before = {name: value for name, value in os.environ.items() if processes > 1 or name != "OMP_NUM_THREADS"}
    if note := ignored_note(before, read):
        observer.warn(note)
    for name in strays(before):
        del os.environ[name]
    return before


def run_ranks(
    run: RunDir,
    manifest: Manifest,
    surroundings: Mapping[str, str],
    machine: Machine,
    observer: Observer,
    stop: StopSignal,
) -> dict[str, Any]:
    """Train a prepared run in as many processes as its plan says; what the first one hands back.

    Raises:
        LoransError: what went wrong in a rank, or that all stopped after a signal.
    """
    result: dict[str, Any] = {}
    tell = _teller(run, observer, stop, result)
    asked = manifest.recipe.distributed
    here, node = count_here(asked, machine), this_node(asked)
    observer.stage(f"starting {here} processes")
    if node:
        check_port(node)
        observer.stage(f"meeting {node.count - 1} other machine{'s' * (node.count > 2)} at {node.host}:{node.port}")
    command = argv(run.path, here, "--launched", restarts=asked.restarts, node=node)
    environ = environment(surroundings, here, machine.cores, node)
    for left in range(asked.restarts, -1, -1):
        try:
            launch(run, command, environ, tell, lambda: stop.number, asked.restarts)
            break
        except LoransError:
            if stop.number:  # the signal may have gone to the processes too, as a scheduler's does
                break
            if not (left and node and not node.is_host and lost_meeting_point(run)):
                raise
            _wait_for_host(node, observer, stop)
    if result:
        return result
    if stop.number or run.stopped_file.exists():
        number = stop.number or int(run.stopped_file.read_text())
        found = last_complete_checkpoint(run.checkpoints, manifest.run_id)
        what = f"stopped after step {found[1] if found else 0} of {manifest.plan.max_steps.value}, which is saved"
        raise InterruptedRunError(number, Problem("", what, f"{resume_command(run.path, asked)} goes on"))
    raise RunError(Problem(str(run.path), "the processes ended without a result", f"{run.log} has what they said"))


def _teller(
    run: RunDir, observer: Observer, stop: StopSignal, result: dict[str, Any]
) -> Callable[[dict[str, Any]], None]:
    """What hands on the events of rank 0, and keeps its result."""

    def tell(event: dict[str, Any]) -> None:
        name, values = event["event"], event["values"]
        if name == "result":
            result.update(values[0])
            return
        if name == "step":
            stop.begin(run.forget_replaced)
        getattr(observer, name)(*values)

    return tell


def _wait_for_host(node: Node, observer: Observer, stop: StopSignal) -> None:
    """Wait until the machine with the meeting point is there again, as long as processes wait for one another."""
    observer.warn(f"{node.host} was lost, and is waited for: give its command again there, with `--resume`")
    until = time.monotonic() + node.timeout
    while not is_met(node) and not stop.number:
        if time.monotonic() > until:
            what = f"{node.host} was lost, and did not come back within {node.timeout} seconds"
            raise RunError(Problem("", what, "give its command again there, with `--resume`, and this one too"))
        time.sleep(_LOOK_SECONDS)


_LOOK_SECONDS = 1.0


class Teller(Observer):
    """The observer in the first rank: what it is told goes to the launcher, but for model and trainer."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _tell(self, event: str, *values: Any) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "values": values}) + "\n")

    def stage(self, text: str) -> None:
        """What happens now."""
        self._tell("stage", text)

    def begin(self, step: int, steps: int) -> None:
        """Training begins."""
        self._tell("begin", step, steps)

    def step(self, step: int, tokens: int) -> None:
        """A step was done."""
        self._tell("step", step, tokens)

    def logged(self, row: dict[str, Any]) -> None:
        """A row of metrics."""
        self._tell("logged", row)

    def warn(self, text: str) -> None:
        """Something that the user should know."""
        self._tell("warn", text)

    def result(self, result: Any) -> None:
        """What `train` hands back; the seal is in the manifest."""
        self._tell("result", {**asdict(result), "seal": None})


_LOST = re.compile(r"closed by peer|reset by peer|refused|Broken pipe|[Tt]imed? ?out|connectFullMesh|heartbeat")
"""Parts of what gloo and NCCL say when a process at the other end is gone, or cannot be reached."""


def _problem(run: RunDir, error: BaseException) -> Problem:
    """An error that nobody foresaw: another process that is gone, or a fault."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, RuntimeError) and _LOST.search(str(error)):
        goes_on = f"{resume_command(run.path, run.read().recipe.distributed)} goes on"
        remedy = f"its log says why it ended; {goes_on}"
        return Problem("", f"another process was lost: {_first_sentence(str(error))}", remedy)
    return Problem("", said, f"the end of {run.log} or of a file in {run.ranks} has the traceback")


def _first_sentence(text: str) -> str:
    """What gloo says before its advice, without the place in its source."""
    return " ".join(text.partition("] ")[2].split()).partition(". ")[0] or text


@contextlib.contextmanager
def telling_launcher(run: RunDir, rank: int, is_launched: bool) -> Iterator[None]:
    """Write down what goes wrong in a rank, where the launcher looks for it; all ranks stop together after a signal."""
    run.ranks.mkdir(exist_ok=True)
    write_atomic(run.ranks / f"rank{rank}.pid", str(os.getpid()))
    try:
        yield
    except InterruptedRunError as error:
        if not is_launched:
            raise
        write_atomic(run.stopped_file, str(error.signal_number))
    except BaseException as error:
        if not isinstance(error, LoransError):
            traceback.print_exc()
        place = {"rank": rank, "host": socket.gethostname(), "time": time.time()}
        told = {**place, **error_told(error, _problem(run, error))}
        run.tell_of_failure(rank, told)
        raise
