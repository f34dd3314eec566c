"""Several processes for one run: torchrun's command line, what it may see of its surroundings, and what comes back.

Everything a rank needs is in the run directory before the first one starts, so that no process group waits for rows.
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
"""Settings of launchers that decide what torch and accelerate do, whoever set them."""


_LAUNCHED = frozenset(
    {"GROUP_RANK", "GROUP_WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "RANK"}
    | {"TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"}
)
"""What torchrun, and accelerate with it, sets for each process."""


_STRAY_PREFIXES = ("ACCELERATE_", "PET_", "TORCHELASTIC_")


_SETTINGS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it, workers that are started again may meet the store of those before them."""


_POLL_SECONDS = 0.1


_END_SECONDS = 10.0


_HANG_SECONDS = 20.0


_RANK_EXIT = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s+exitcode\s*: (-?\d+)")


def argv(run: Path, processes: int, *options: str, restarts: int = 0, node: Node | None = None) -> list[str]:
    """The command that starts the processes of a run on this machine: torchrun.

    Args:
        run: the run directory.
        processes: how many are started here.
        options: of the command that each executes.
        restarts: how often all are started again after one was lost.
        node: this machine among several; else a port is taken that is free.
    """
    return [
        *(*interpreter(), "-m", "torch.distributed.run"),
        *(_meeting(node) if node else ["--standalone"]),
        *("--nproc_per_node", str(processes), "--max_restarts", str(restarts)),
        *("--no_python", *interpreter(), "-m", "lora_ns", "rank", str(run)),
        *options,
    ]


def _meeting(node: Node) -> list[str]:
    """Where and how torchrun's agents of all machines meet; none can tell by itself that the place is its own."""
    conf = f"is_host={int(node.is_host)},join_timeout={node.timeout},last_call_timeout=1"
    return [
        *("--nnodes", str(node.count), "--rdzv_backend", "c10d", "--rdzv_endpoint", f"{node.host}:{node.port}"),
        *("--rdzv_id", "lorans", "--rdzv_conf", conf, "--local_addr", node.address),
    ]


_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def settings(processes: int, cores: int, node: Node | None = None) -> dict[str, str]:
    """What is set for the processes: the cores are divided among them, and machines meet on their own network."""
    network = dict.fromkeys(_INTERFACES, node.interface) if node and node.interface else {}
    return {**_SETTINGS, "OMP_NUM_THREADS": str(max(1, cores // processes)), **network}


def strays(surroundings: Mapping[str, str]) -> list[str]:
    """Names of settings that are not for a run that launches itself."""
    return sorted(name for name in surroundings if name in STRAY or name.startswith(_STRAY_PREFIXES))


def environment(
    surroundings: Mapping[str, str], processes: int, cores: int, node: Node | None = None
) -> dict[str, str]:
    """The environment of the processes; a network that the user names is kept."""
    ignored = set(strays(surroundings))
    kept = {name: value for name, value in surroundings.items() if name not in ignored}
    # What DeepSpeed compiles at its start is built by a program that lies beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), *filter(None, [surroundings.get("PATH")])])
    named = {name: kept[name] for name in _INTERFACES if name in kept}
    return {**kept, **settings(processes, cores, node), **named, "PATH": path}


def ignored_note(surroundings: Mapping[str, str], read: Path | None = None) -> str | None:
    """What of the surroundings is not read, in one line; `read` is a file of accelerate's that is."""
    ignored = [f"`{name}`" for name in strays(surroundings)]
    cache = Path(surroundings.get("XDG_CACHE_HOME") or Path(surroundings.get("HOME", "~")).expanduser() / ".cache")
    file = Path(surroundings.get("HF_HOME") or cache / "huggingface") / "accelerate" / "default_config.yaml"
    ignored += [str(file)] if file.is_file() and not (read and read.exists() and read.samefile(file)) else []
    return f"not read: {', '.join(ignored)}; `[distributed]` says how this run is launched" if ignored else None


@dataclass(frozen=True)
class Launcher:
    """What a launcher of the user's own, torchrun or accelerate's, started around this process."""

    processes: int
    """On this machine."""
    nodes: int
    """Machines."""
    endpoint: str
    """Address and port of the first one."""
    node: int
    """This machine among them, from 0."""
    is_first: bool
    """Whether this is the first process of its machine."""
    restarts: int
    """How often all processes were started again so far."""

    @classmethod
    def of(cls, surroundings: Mapping[str, str]) -> Launcher | None:
        """None if a launcher started one process alone, or none did, whatever is left of one in the environment."""
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
    """Refuse to do in each of the processes of a launcher what one process does. Raises `UsageError`."""
    if launcher := Launcher.of(surroundings):
        count = launcher.processes * launcher.nodes
        what = f"started by torchrun or accelerate in {count} processes, and each would do all of it"
        raise UsageError(Problem("", what, "leave the launcher away, and give the command `--num-processes N`"))


def launch(
    run: RunDir,
    command: list[str],
    surroundings: Mapping[str, str],
    tell: Callable[[dict[str, Any]], None],
    stopped: Callable[[], int],
    restarts: int = 0,
) -> None:
    """Run the processes to their end, and hand on what rank 0 tells.

    Args:
        run: its log takes what the launcher says.
        command: from `argv`.
        surroundings: from `environment`.
        tell: takes each event of rank 0.
        stopped: the number of the signal that asks for a stop, or 0.
        restarts: how often the launcher starts all processes again after one was lost.

    Raises:
        LoransError: what the first rank that failed says, with its number.
    """
    run.clear_ranks()
    told = _Events(run.ranks / "events.jsonl")
    with _started(command, surroundings, run) as child:
        while child.poll() is None and (restarts or not _hangs(run)):
            if stopped() and not run.stop_file.exists():
                write_atomic(run.stop_file, str(stopped()))
            for event in told.read():
                tell(event)
            time.sleep(_POLL_SECONDS)
    for event in told.read():
        tell(event)
    if child.returncode:
        raise _failure(run, child.returncode)


@contextlib.contextmanager
def _started(command: list[str], surroundings: Mapping[str, str], run: RunDir) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher, which ends with this process or before.

    The processes that it starts have its standard input, a pipe that this process holds open: they end when it is
    closed, see `workers.end_with_parent`.
    """
    surroundings = {**surroundings, "PET_LOG_DIR": str(run.ranks)}  # else it leaves a folder among temporary files
    with run.log.open("ab") as log:
        child = subprocess.Popen(
            tethered(command), env=surroundings, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    assert child.stdin, "is a pipe"
    try:
        yield child
    finally:
        child.stdin.close()
        if child.poll() is None:
            _end(child, run)


class _Events:
    """The lines that rank 0 has written since they were last read."""

    def __init__(self, file: Path) -> None:
        self._file, self._place = file, 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Whole lines only."""
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
    """Whether a process failed for good a while ago, and the launcher is still there: it may, without its network."""
    errors = [file.stat().st_mtime for file in run.ranks.glob("rank*.error.json")]
    return bool(errors) and time.time() - min(errors) > _HANG_SECONDS


def _end(child: subprocess.Popen[bytes], run: RunDir) -> None:
    """End the launcher, which ends its processes, and then whatever of them is left."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_END_SECONDS)
    for file in run.ranks.glob("rank*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)
    if child.poll() is None:
        child.kill()
        child.wait()


def error_told(error: BaseException, unforeseen: Problem) -> dict[str, Any]:
    """What a process writes down of its failure, for `told_error` in the one that started it.

    Args:
        error: what went wrong.
        unforeseen: what to say of it, if it is no `LoransError`.
    """
    error = exhaustion(error) or error
    expected = isinstance(error, LoransError)
    problems = error.problems if isinstance(error, LoransError) else (unforeseen,)
    code = error.exit_code if isinstance(error, LoransError) else 1
    return {"expected": expected, "exit_code": code, "problems": [asdict(problem) for problem in problems]}


def told_error(told: Mapping[str, Any], who: str) -> LoransError:
    """What another process says of its failure, as an error of this one."""
    kind = {2: UsageError, 3: MissingError}.get(told["exit_code"], RunError)
    return kind(Problem(entry["where"], f"{who}: {entry['what']}", entry["remedy"]) for entry in told["problems"])


def lost_meeting_point(run: RunDir) -> bool:
    """Whether the launcher ended because the machine with the meeting point did not answer any more."""
    text = run.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:]
    return bool(_LOST_MEETING.search(text.rpartition(_TRACEBACK)[2]))


_TAIL = 20_000


_TRACEBACK = "Traceback (most recent call last)"


_LOST_MEETING = re.compile(r"Rendezvous\w*Error|DistNetworkError|DistStoreError")
"""What torchrun's agent ends with then; after a process of its own, it ends with `ChildFailedError`."""


def _failure(run: RunDir, returncode: int) -> LoransError:
    """What the first rank says that failed on its own, rather than because another one was gone."""
    if found := run.told_failures():
        first = min(found, key=lambda error: (not error["expected"], error["time"]))
        return told_error(first, f"rank {first['rank']} on {first['host']}")
    remedy = f"{run.log} has what it said"
    ended = _RANK_EXIT.findall(run.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:])
    if not ended:
        return RunError(Problem(str(run.path), f"the launcher ended with {returncode}", remedy))
    rank, code = ended[-1][0], int(ended[-1][1])
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return RunError(Problem(str(run.path), f"rank {rank} {how}", remedy))
