"""The ranks of a run: the launcher's side starts and follows them, the ranks' side reports to the launcher."""

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
from lora_ns.launch.torchrun import argv, dump_error, environment, ignored_note, launch, lost_meeting_point, strays
from lora_ns.machine.hardware import Machine
from lora_ns.parallel.nodes import Node, check_port, is_met, resume_command, this_node
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.processes import count_here
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import last_complete_checkpoint
from lora_ns.run.manifest import Manifest
from lora_ns.run.observer import Observer


def forget_strays(observer: Observer, processes: int, read: Path | None = None) -> dict[str, str]:
    """Remove launcher variables from this process's environment, with a warning.

    Args:
        observer: receives the warning.
        processes: number of processes; with one, `OMP_NUM_THREADS` stays as the user set it.
        read: an accelerate file that the recipe reads, and that is therefore not reported as ignored.

    Returns:
        The environment before the removal.
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
    """Train a prepared run in as many processes as its plan says, and return the result of its first rank.

    Raises:
        LoransError: the error of a rank, or an interruption by a signal.
    """
    result: dict[str, Any] = {}
    tell = _event_handler(run, observer, stop, result)
    strategy = manifest.recipe.distributed
    here, node = count_here(strategy, machine), this_node(strategy)
    observer.stage(f"starting {here} processes")
    if node:
        check_port(node)
        observer.stage(f"waiting for {node.count - 1} other machine{'s' * (node.count > 2)} at {node.host}:{node.port}")
    command = argv(run.path, here, "--launched", restarts=strategy.restarts, node=node)
    environ = environment(surroundings, here, machine.cores, node)
    for left in range(strategy.restarts, -1, -1):
        try:
            launch(run, command, environ, tell, lambda: stop.number, strategy.restarts)
            break
        except LoransError:
            if stop.number:  # the processes may have received the signal too, as from a scheduler
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
        raise InterruptedRunError(number, Problem("", what, f"{resume_command(run.path, strategy)} continues it"))
    raise RunError(Problem(str(run.path), "the processes ended without a result", f"see {run.log}"))


def _event_handler(
    run: RunDir, observer: Observer, stop: StopSignal, result: dict[str, Any]
) -> Callable[[dict[str, Any]], None]:
    """A function that passes events of the first rank to the observer, and stores its result."""

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
    """Wait for the rendezvous machine to come back, for at most `distributed.timeout`. Raises `RunError`."""
    observer.warn(f"lost {node.host}; waiting for it: repeat its command there, with `--resume`")
    until = time.monotonic() + node.timeout
    while not is_met(node) and not stop.number:
        if time.monotonic() > until:
            what = f"lost {node.host}, which did not come back within {node.timeout} seconds"
            raise RunError(Problem("", what, "repeat its command there, and this one here, with `--resume`"))
        time.sleep(_LOOK_SECONDS)


_LOOK_SECONDS = 1.0


class LauncherObserver(Observer):
    """The observer of a machine's first rank: sends events to the launcher, except those about model and trainer."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _tell(self, event: str, *values: Any) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "values": values}) + "\n")

    def stage(self, text: str) -> None:
        """Report the current stage."""
        self._tell("stage", text)

    def shows(self, metrics: Mapping[str, str]) -> None:
        """Report the metrics to show."""
        self._tell("shows", dict(metrics))

    def begin(self, step: int, steps: int) -> None:
        """Report the start of training after `step`, of `steps`."""
        self._tell("begin", step, steps)

    def step(self, step: int, tokens: int) -> None:
        """Report a finished step."""
        self._tell("step", step, tokens)

    def logged(self, row: dict[str, Any]) -> None:
        """Report a row of metrics."""
        self._tell("logged", row)

    def warn(self, text: str) -> None:
        """Report a warning."""
        self._tell("warn", text)

    def result(self, result: Any) -> None:
        """Report the result of `train`, without the adapter check, which is in the manifest."""
        self._tell("result", {**asdict(result), "seal": None, "best": None})


_LOST = re.compile(r"closed by peer|reset by peer|refused|Broken pipe|[Tt]imed? ?out|connectFullMesh|heartbeat")
"""Phrases of gloo and NCCL for a peer process that is gone or cannot be reached."""


def _problem(run: RunDir, error: BaseException) -> Problem:
    """The problem of an unexpected error: a lost peer process, or a bug."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if isinstance(error, RuntimeError) and _LOST.search(str(error)):
        goes_on = f"{resume_command(run.path, run.read().recipe.distributed)} continues the run"
        remedy = f"see its log for the reason; {goes_on}"
        return Problem("", f"another process was lost: {_first_sentence(str(error))}", remedy)
    return Problem("", what, f"the traceback is at the end of {run.log} or of a file in {run.ranks}")


def _first_sentence(text: str) -> str:
    """The first sentence of a gloo message, without the source location before it."""
    return " ".join(text.partition("] ")[2].split()).partition(". ")[0] or text


@contextlib.contextmanager
def reporting_to_launcher(run: RunDir, rank: int, is_launched: bool) -> Iterator[None]:
    """Write the error of a rank to a file for the launcher, or the signal after which all ranks stopped."""
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
        report = {**place, **dump_error(error, _problem(run, error))}
        run.report_failure(rank, report)
        raise
