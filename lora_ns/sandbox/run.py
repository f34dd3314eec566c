"""Running programs behind walls: one, or many at once in order."""

from __future__ import annotations

import contextlib
import marshal
import os
import secrets
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lora_ns.safety.interpreter import interpreter
from lora_ns.sandbox.harness import LONGEST, TOKEN_BYTES
from lora_ns.sandbox.namespaces import ENVIRONMENT, WallError
from lora_ns.sandbox.outcome import Limits, Outcome, Program, Verdict
from lora_ns.sandbox.walls import Wall, refusal, require

_START = "import sys; sys.path = [sys.argv[1], *filter(None, sys.path)]; "
_START += "from lora_ns.sandbox.warden import main; del sys.path[0]; "
_START += "main(*map(int, sys.argv[2:]))"
_PACKAGE = str(Path(__file__).parents[2])

_LONGEST_REPORT, _LONGEST_STATUS, _AT_ONCE = 2**20, 4096, 2**16


class Running:
    """Processes that hold a program each. Once they are to end, one that another thread is just starting ends too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._are_to_end = False

    def add(self, child: subprocess.Popen[bytes]) -> None:
        """Note a process that has been started."""
        with self._lock:
            self._children.add(child)
            if self._are_to_end:
                child.terminate()

    def discard(self, child: subprocess.Popen[bytes]) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._children.discard(child)

    def end(self) -> None:
        """Terminate all of them."""
        with self._lock:
            self._are_to_end = True
            for child in self._children:
                child.terminate()


_END_SECONDS = 10.0
"""Time that the kernel is given to end all processes."""


def run_code(program: Program | str, limits: Limits | None = None) -> Outcome:
    """Run a program and its tests behind the walls of this machine.

    Args:
        program: the program; a text is one without tests.
        limits: its limits.

    Raises:
        MissingError: if a wall that is needed is missing here.
    """
    require()
    return _run(Program(program) if isinstance(program, str) else program, limits or Limits())


def run_all(programs: Iterable[Program], limits: Limits | None = None, at_once: int | None = None) -> Iterator[Outcome]:
    """Run several programs at a time, and yield their outcomes in the order of the programs.

    Args:
        programs: the programs.
        limits: limits of each.
        at_once: programs at a time; by default one for each core that this process may use.

    Raises:
        MissingError: if a wall that is needed is missing here.
    """
    require()
    known, running = limits or Limits(), Running()
    with ThreadPoolExecutor(at_once or len(os.sched_getaffinity(0))) as pool:
        try:
            yield from pool.map(lambda program: _run(program, known, running), programs)
        except BaseException:  # such as Ctrl-C, after which the rest is not waited for
            running.end()
            raise


def _run(program: Program, limits: Limits, running: Running | None = None) -> Outcome:
    """Run a program. Raises `MissingError` if a wall, which held before, cannot be built now."""
    try:
        return run_unchecked(program, limits, running)
    except WallError as error:
        raise refusal([Wall(error.wall, False, error.why)]) from error


def run_unchecked(program: Program, limits: Limits, running: Running | None = None) -> Outcome:
    """Run a program without a look at the walls.

    Args:
        program: the program.
        limits: its limits.
        running: processes to terminate to end programs early; has that of this program while it runs.

    Raises:
        WallError: if a wall cannot be built.
    """
    running = Running() if running is None else running
    begin = time.monotonic()
    token = secrets.token_hex(TOKEN_BYTES // 2).encode()
    with _Pipes() as pipes:
        (token_end, token_start), report, status, output = (pipes.make() for _ in range(4))
        os.write(token_start, token)
        child = _start((token_end, report[1], status[1]), output[1])
        running.add(child)
        try:
            pipes.close(token_end, token_start, report[1], status[1], output[1])
            _tell(child, program, limits)
            heard = _listen(child, {output[0]: "output", report[0]: "report", status[0]: "status"}, limits, begin)
        finally:
            child.terminate()
            child.wait()
            running.discard(child)
    return judge(heard, program, token, time.monotonic() - begin)


class _Pipes:
    """Pipes whose ends are closed once."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close(*self._open)

    def make(self) -> tuple[int, int]:
        """A new pipe, as the descriptors for reading and writing."""
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def close(self, *ends: int) -> None:
        """Close ends."""
        for end in ends:
            self._open.discard(end)
            os.close(end)


def _start(handles: tuple[int, int, int], output: int) -> subprocess.Popen[bytes]:
    """Start the child process that builds the walls. It ends when this thread does."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PYTHONHOME") if name in os.environ}
    return subprocess.Popen(
        [*interpreter(), "-s", "-S", "-c", _START, _PACKAGE, str(os.getpid()), *map(str, handles)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        pass_fds=handles,
        cwd="/",
        env={**kept, **ENVIRONMENT},
        start_new_session=True,
    )


def _tell(child: subprocess.Popen[bytes], program: Program, limits: Limits) -> None:
    """Describe the program to the child. It reads all of it before anything else happens."""
    assert child.stdin is not None, "it is a pipe"
    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
        marshal.dump((program.code, list(program.tests), asdict(limits)), pipe)


@dataclass
class Heard:
    """Everything that came out of a sandbox."""

    output: bytearray = field(default_factory=bytearray)
    report: bytearray = field(default_factory=bytearray)
    status: bytearray = field(default_factory=bytearray)
    stopped: Verdict | None = None
    """Limit for which the program was ended from outside."""


def _listen(child: subprocess.Popen[bytes], names: dict[int, str], limits: Limits, begin: float) -> Heard:
    """Read until every process has ended, and end them at a limit."""
    heard, most = Heard(), {"output": limits.output, "report": _LONGEST_REPORT, "status": _LONGEST_STATUS}
    deadline = begin + limits.seconds
    with selectors.DefaultSelector() as selector:
        for handle, name in names.items():
            selector.register(handle, selectors.EVENT_READ, name)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                found, read = getattr(heard, key.data), os.read(key.fd, _AT_ONCE)
                if not read:
                    selector.unregister(key.fd)
                found += read[: most[key.data] - len(found) + 1]
                if len(found) > most[key.data] and heard.stopped is None:
                    heard.stopped = Verdict.OUTPUT if key.data == "output" else Verdict.FORGED
                    child.terminate()
            if not ready and heard.stopped is None:
                heard.stopped, deadline = Verdict.TIMEOUT, time.monotonic() + _END_SECONDS
                child.terminate()
            elif not ready:
                child.kill()  # with it, the first process of the namespace ends
                break
    return heard


def judge(heard: Heard, program: Program, token: bytes, seconds: float) -> Outcome:
    """The outcome of what came out of a sandbox. Raises `WallError` if the program was not started."""
    none, output = (False,) * len(program.tests), bytes(heard.output).decode("utf-8", "replace")
    status = bytes(heard.status).decode("utf-8", "replace")
    if status.startswith("wall "):
        raise WallError(*status.removeprefix("wall ").split(" ", 1))
    if heard.stopped is not None:
        return Outcome(heard.stopped, none, _STOPPED[heard.stopped], output, seconds)
    lines = _report(bytes(heard.report), token)
    if heard.report and (lines is None or len(lines) not in {1, 1 + len(program.tests)}):
        return Outcome(Verdict.FORGED, none, "a report that is not the sandbox's own", output, seconds)
    if not lines:
        return Outcome(*_without_report(status, none), output, seconds)
    passed = tuple(kind == "ok" for kind, _ in lines[1:]) or none
    number = next((number for number, (kind, _) in enumerate(lines) if kind != "ok"), None)
    if number is None:
        return Outcome(Verdict.PASSED, passed, "", output, seconds)
    kind, why = lines[number]
    if number and why == "AssertionError":
        why = f"AssertionError: {' '.join(program.tests[number - 1].split())[:LONGEST]}"
    verdict = {"memory": Verdict.MEMORY, "ended": Verdict.ENDED_EARLY}.get(kind)
    return Outcome(verdict or (Verdict.FAILED if number else Verdict.RAISED), passed, why, output, seconds)


def _report(report: bytes, token: bytes) -> list[tuple[str, str]] | None:
    """The lines of a report as kind and text; None if it has not this token, or lines of no such kind."""
    if not report.startswith(token):
        return None
    found = [line.partition(" ") for line in report[len(token) :].decode("utf-8", "replace").splitlines()]
    return [(kind, why) for kind, _, why in found] if {kind for kind, *_ in found} <= _KINDS else None


def _without_report(status: str, none: tuple[bool, ...]) -> tuple[Verdict, tuple[bool, ...], str]:
    """The verdict on a program that ended without a report, by its exit code or signal."""
    if status == "memory":
        return Verdict.MEMORY, none, "all processes together"
    if status == "processor":
        return Verdict.TIMEOUT, none, "processor time"
    if not status.startswith("exit "):
        return Verdict.FORGED, none, "the first process of the sandbox was changed"
    code = int(status.removeprefix("exit "))
    if code < 0:
        return Verdict.CRASHED, none, signal.Signals(-code).name
    return Verdict.ENDED_EARLY, none, f"exit code {code}"


_STOPPED = {
    Verdict.TIMEOUT: "wall-clock time",
    Verdict.OUTPUT: "standard output and standard error",
    Verdict.FORGED: "an endless report",
}
_KINDS = {"ok", "failed", "memory", "ended"}
