"""Launching a run with torchrun: its command line, its environment, its events and its failures.

Everything that a rank needs is in the run directory before the first rank starts, so no process group waits for rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError, MissingError, Problem, RunError, UsageError
from lora_ns.files.disk import write_atomic
from lora_ns.files.shortage import exhaustion
from lora_ns.launch.tethered import tethered
from lora_ns.parallel.nodes import Node
from lora_ns.run.directory import RunDir
from lora_ns.safety.interpreter import interpreter

STRAY = frozenset(
    {"GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    | {"OMP_NUM_THREADS", "RANK", "ROLE_RANK", "ROLE_WORLD_SIZE", "WORLD_SIZE"}
)
"""Environment variables of launchers that change the behaviour of torch and accelerate."""


_LAUNCHED = frozenset(
    {"GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK"}
    | {"TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"}
)
"""Environment variables that torchrun, and accelerate through it, set for each process."""


_STRAY_PREFIXES = ("ACCELERATE_", "PET_", "TORCHELASTIC_")


_SETTINGS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Settings for torchrun; without this one, restarted workers may connect to the store of their predecessors."""


_POLL_SECONDS = 0.1


_END_SECONDS = 10.0


_HANG_SECONDS = 20.0


_RANK_EXIT = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)")


def argv(run: Path, processes: int, *options: str, restarts: int = 0, node: Node | None = None) -> list[str]:
    """The torchrun command that starts the processes of a run on this machine.

    Args:
        run: the run directory.
        processes: number of processes on this machine.
        options: options of the command that each process executes.
        restarts: maximum number of restarts of all processes after one was lost.
        node: this machine among several; None for a single machine, where torchrun picks a free port.
    """
    return [
        *(*interpreter(), "-m", "torch.distributed.run"),
        *(_meeting(node) if node else ["--standalone"]),
        *("--nproc_per_node", str(processes), "--max_restarts", str(restarts)),
        *("--no_python", *interpreter(), "-m", "lora_ns", "rank", str(run)),
        *options,
    ]


def _meeting(node: Node) -> list[str]:
    """Rendezvous options of torchrun; they name the host, since an agent cannot detect that it is the host itself."""
    conf = f"is_host={int(node.is_host)},join_timeout={node.timeout},last_call_timeout=1"
    return [
        *("--nnodes", str(node.count), "--rdzv_backend", "c10d", "--rdzv_endpoint", f"{node.host}:{node.port}"),
        *("--rdzv_id", "lorans", "--rdzv_conf", conf, "--local_addr", node.address),
    ]


_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def settings(processes: int, cores: int, node: Node | None = None) -> dict[str, str]:
    """Environment variables of the processes: their share of the cores, and the network between machines."""
    network = dict.fromkeys(_INTERFACES, node.interface) if node and node.interface else {}
    return {**_SETTINGS, "OMP_NUM_THREADS": str(max(1, cores // processes)), **network}


def strays(surroundings: Mapping[str, str]) -> list[str]:
    """Names of launcher variables that a run must not inherit, since it launches its own processes."""
    return sorted(name for name in surroundings if name in STRAY or name.startswith(_STRAY_PREFIXES))


def environment(
    surroundings: Mapping[str, str], processes: int, cores: int, node: Node | None = None
) -> dict[str, str]:
    """The environment of the processes; a network interface that the user has set is kept."""
    ignored = set(strays(surroundings))
    kept = {name: value for name, value in surroundings.items() if name not in ignored}
    # DeepSpeed compiles extensions at its start with `ninja`, which is beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), *filter(None, [surroundings.get("PATH")])])
    named = {name: kept[name] for name in _INTERFACES if name in kept}
    return {**kept, **settings(processes, cores, node), **named, "PATH": path}


def ignored_note(surroundings: Mapping[str, str], read: Path | None = None) -> str | None:
    """A note that names ignored launcher settings; None if there are none. `read` is an accelerate file in use."""
    ignored = [f"`{name}`" for name in strays(surroundings)]
    cache = Path(surroundings.get("XDG_CACHE_HOME") or Path(surroundings.get("HOME", "~")).expanduser() / ".cache")
    file = Path(surroundings.get("HF_HOME") or cache / "huggingface") / "accelerate" / "default_config.yaml"
    ignored += [str(file)] if file.is_file() and not (read and read.exists() and read.samefile(file)) else []
    return f"ignored: {', '.join(ignored)}; `[distributed]` determines how this run is launched" if ignored else None


@dataclass(frozen=True)
class Launcher:
    """A torchrun or accelerate launch, started by the user, that this process is part of."""

    processes: int
    """Number of processes on this machine."""
    nodes: int
    """Number of machines."""
    endpoint: str
    """Address and port of the first machine."""
    node: int
    """Index of this machine, from 0."""
    is_first: bool
    """True for the first process of a machine."""
    restarts: int
    """Number of restarts of all processes so far."""

    @classmethod
    def of(cls, surroundings: Mapping[str, str]) -> Launcher | None:
        """The launch in these environment variables; None without a launcher, or if it started a single process."""
        if not surroundings.keys() >= _LAUNCHED or surroundings["WORLD_SIZE"] == "1":
            return None
        return cls(
            int(surroundings["LOCAL_WORLD_SIZE"]),
            int(surroundings["GROUP_WORLD_SIZE"]),
            f"{surroundings['MASTER_ADDR']}:{surroundings['MASTER_PORT']}",
            int(surroundings["GROUP_RANK"]),
            surroundings["LOCAL_RANK"] == "0",
            int(surroundings["TORCHELASTIC_RESTART_COUNT"]),
        )


def check_not_launched(surroundings: Mapping[str, str]) -> None:
    """Refuse a command that must run once if a launcher started several processes. Raises `UsageError`."""
    if launcher := Launcher.of(surroundings):
        count = launcher.processes * launcher.nodes
        what = f"torchrun or accelerate started {count} processes, and each of them would do all the work"
        raise UsageError(Problem("", what, "run the command without the launcher, with `--num-processes N`"))


def launch(
    run: RunDir,
    command: list[str],
    surroundings: Mapping[str, str],
    tell: Callable[[dict[str, Any]], None],
    stopped: Callable[[], int],
    restarts: int = 0,
) -> None:
    """Run the processes to their end, and pass on the events of rank 0.

    Args:
        run: the run, whose log receives the launcher's output.
        command: from `argv`.
        surroundings: from `environment`.
        tell: called with each event of rank 0.
        stopped: returns the number of a signal that requests a stop, or 0.
        restarts: maximum number of restarts of all processes after one was lost.

    Raises:
        LoransError: the error of the first rank that failed, with its number.
    """
    run.clear_ranks()
    events = _Events(run.ranks / "events.jsonl")
    with _started(command, surroundings, run) as child:
        while child.poll() is None and (restarts or not _hangs(run)):
            if stopped() and not run.stop_file.exists():
                write_atomic(run.stop_file, str(stopped()))
            for event in events.read():
                tell(event)
            time.sleep(_POLL_SECONDS)
    for event in events.read():
        tell(event)
    if child.returncode:
        raise _failure(run, child.returncode)


@contextlib.contextmanager
def _started(command: list[str], surroundings: Mapping[str, str], run: RunDir) -> Iterator[subprocess.Popen[bytes]]:
    """Start the launcher, and end it with this context.

    The ranks inherit its standard input, a pipe that this process holds open. They end when the pipe is closed, see
    `workers.end_with_parent`.
    """
    surroundings = {**surroundings, "PET_LOG_DIR": str(run.ranks)}  # otherwise torchrun leaves a temporary folder
    with run.log.open("ab") as log:
        child = subprocess.Popen(
            tethered(command), env=surroundings, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    assert child.stdin, "standard input is a pipe"
    try:
        yield child
    finally:
        child.stdin.close()
        if child.poll() is None:
            _end(child, run)


class _Events:
    """Reader of the events that rank 0 appends to a file."""

    def __init__(self, file: Path) -> None:
        self._file, self._place = file, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Read the complete lines that were added since the last call."""
        if not self._file.exists():
            return
        with self._file.open("rb") as file:
            file.seek(self._place)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._place += len(line)
                yield json.loads(line)


def _hangs(run: RunDir) -> bool:
    """Detect a launcher that has not ended for a while after a rank failed, as it may without its network."""
    errors = [file.stat().st_mtime for file in run.ranks.glob("rank*.error.json")]
    return bool(errors) and time.time() - min(errors) > _HANG_SECONDS


def _end(child: subprocess.Popen[bytes], run: RunDir) -> None:
    """End the launcher, which ends its processes, and kill any that are left."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_END_SECONDS)
    for file in run.ranks.glob("rank*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    if child.poll() is None:
        child.kill()
        child.wait()


def dump_error(error: BaseException, unexpected: Problem) -> dict[str, Any]:
    """Serialise a process's failure for `load_error` in its parent.

    Args:
        error: the exception.
        unexpected: the problem to report if the exception is not a `LoransError`.
    """
    error = exhaustion(error) or error
    expected = isinstance(error, LoransError)
    problems = error.problems if isinstance(error, LoransError) else (unexpected,)
    code = error.exit_code if isinstance(error, LoransError) else 1
    return {"expected": expected, "exit_code": code, "problems": [asdict(problem) for problem in problems]}


def load_error(report: Mapping[str, Any], who: str = "") -> LoransError:
    """Restore an error of another process, with `who` before its message, or as it was."""
    kind = {2: UsageError, 3: MissingError}.get(report["exit_code"], RunError)
    if not who:
        return kind(Problem(**entry) for entry in report["problems"])
    return kind(Problem(entry["where"], f"{who}: {entry['what']}", entry["remedy"]) for entry in report["problems"])


def lost_meeting_point(run: RunDir) -> bool:
    """Test that the launcher ended because the rendezvous machine stopped responding."""
    text = run.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
    return bool(_LOST_MEETING.search(text.rpartition(_TRACEBACK)[2]))


_TAIL = 20_000


_TRACEBACK = "Traceback (most recent call last)"


_LOST_MEETING = re.compile(r"Rendezvous\w*Error|DistNetworkError|DistStoreError")
"""Exceptions of a torchrun agent that lost its rendezvous; after a failed rank it raises `ChildFailedError`."""


def _failure(run: RunDir, returncode: int) -> LoransError:
    """The error of the first rank that failed by itself, rather than because it lost another rank."""
    if found := run.reported_failures():
        first = min(found, key=lambda error: (not error["expected"], error["time"]))
        return load_error(first, f"rank {first['rank']} on {first['host']}")
    remedy = f"see {run.log}"
    ended = _RANK_EXIT.findall(run.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:])
    if not ended:
        return RunError(Problem(str(run.path), f"the launcher exited with code {returncode}", remedy))
    rank, code = ended[-1][0], int(ended[-1][1])
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
    return RunError(Problem(str(run.path), f"rank {rank} {how}", remedy))
