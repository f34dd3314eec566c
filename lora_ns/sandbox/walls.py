"""The walls of this machine, each proven by a program that tries to get through."""

from __future__ import annotations

import functools
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import MissingError, Problem
from lora_ns.sandbox.outcome import Limits, Outcome, Program


@dataclass(frozen=True)
class Wall:
    """A wall between a program and everything else."""

    name: str
    holds: bool
    why: str
    """The effect of a wall that holds, or the reason why one is missing."""

    @property
    def is_necessary(self) -> bool:
        """True for a wall without which no program runs."""
        return self.name not in OPTIONAL


EFFECTS = {
    "network": "no connection to other machines or to this one",
    "processes": "no other process is seen or ended, and all of the program's own end with it",
    "files": "no file of yours is seen; the program's own are in memory and vanish",
    "privileges": "no capabilities, and no program can add any",
    "environment": "no variable of this process is seen",
    "memory": "each process has a limit",
    "total memory": "all processes of a program together have a limit",
    "disk": "all files of a program together have a limit",
    "processor": "each process has a limit of time",
    "process count": "a program can start few processes",
    "open files": "each process has a limit",
}
"""All walls, and the effect of each."""

OPTIONAL = ("total memory",)
"""Walls without which programs run: a container may hide `/proc`, by which the memory of all processes is measured."""

REMEDY = (
    "allow user namespaces: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` on Ubuntu, "
    "`sysctl -w user.max_user_namespaces=15000` elsewhere, `--privileged` or `--security-opt seccomp=unconfined` for a "
    "container"
)


@functools.cache
def walls() -> tuple[Wall, ...]:
    """The walls of this machine. The first call of a process tries each of them, which takes less than a second."""
    if sys.platform != "linux":
        return _missing(dict.fromkeys(EFFECTS, f"only built on Linux, and this is {sys.platform}"))
    from lora_ns.sandbox.namespaces import WallError

    try:
        outcome = _attack()
    except WallError as error:
        before = f"not tried, because `{error.wall}` is missing"
        return _missing({**dict.fromkeys(EFFECTS, before), error.wall: error.why})
    lines = [line.partition("\t") for line in outcome.output.splitlines()]
    found = {name: why for name, _, why in lines if name in EFFECTS}
    return _missing({name: found.get(name, f"not tried: {outcome}") for name in EFFECTS})


def require() -> None:
    """Check that every necessary wall holds. Raises `MissingError`."""
    missing = [wall for wall in walls() if not wall.holds and wall.is_necessary]
    if missing:
        raise refusal(missing)


def refusal(missing: Sequence[Wall]) -> MissingError:
    """The error that names missing walls."""
    return MissingError(Problem("", f"generated programs do not run here: {summary(missing)}", REMEDY))


def summary(found: Sequence[Wall]) -> str:
    """Walls in a line: the missing ones with the reason, or the names of all."""
    missing: dict[str, list[str]] = {}
    for wall in found:
        if not wall.holds:
            missing.setdefault(wall.why, []).append(f"`{wall.name}`")
    if not missing:
        return ", ".join(wall.name for wall in found)
    return "; ".join(f"no wall for {', '.join(names)} ({why})" for why, names in missing.items())


def _missing(reasons: dict[str, str]) -> tuple[Wall, ...]:
    """Every wall; one with a reason is missing."""
    return tuple(Wall(name, not reasons[name], reasons[name] or effect) for name, effect in EFFECTS.items())


def _attack() -> Outcome:
    """Run the program that tries every wall."""
    from lora_ns.sandbox.run import run_unchecked

    limits = Limits(seconds=20, cpu_seconds=10, memory=2**27, disk=2**20, files=32, processes=4)
    with socket.socket() as listening, tempfile.NamedTemporaryFile() as file:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        aims = {
            "port": listening.getsockname()[1],
            "paths": [file.name, str(Path.home()), "/etc/passwd"],
            "process": os.getpid(),
            "variables": sorted(os.environ),
            "limits": {name: getattr(limits, name) for name in ("cpu_seconds", "memory", "disk", "files", "processes")},
        }
        return run_unchecked(Program(f"aims = {aims!r}\n{_ATTACK}"), limits)


_ATTACK = """
import ctypes, os, resource, socket, time
limits = aims["limits"]

def network():
    socket.create_connection(("127.0.0.1", aims["port"]), 2)
    return "a connection to this machine"

def processes():
    if os.getppid() != 1:
        return "the parent has another number than 1"
    os.kill(aims["process"], 0)
    return "another process can be reached"

def files():
    for path in aims["paths"]:
        inside = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
        if any(is_seen(name) for name in inside):
            return f"{path} can be seen"
    with open("/usr/lorans", "w"):
        return "the system can be written"

def is_seen(path):
    inside = [os.path.join(os.path.dirname(os.__file__), ""), "/usr/", "/lib"]
    return os.path.isfile(path) and not any(path.startswith(name) for name in inside)

def privileges():
    libc = ctypes.CDLL(None)
    if libc.prctl(39, 0, 0, 0, 0) != 1:
        return "programs can add some"
    os.setuid(0)
    return "the user can be changed"

def environment():
    kept = set(os.environ) - {"HOME", "LANG", "PATH", "PYTHONHASHSEED", "TMPDIR"}
    return ", ".join(sorted(kept))

def memory():
    bytearray(limits["memory"])
    return "more than the limit was given"

def total():
    return "" if os.path.isdir("/proc/self") else "the kernel shows no `/proc` inside of this container"

def disk():
    with open("full", "wb", 0) as file:
        while file.tell() <= limits["disk"]:
            file.write(bytes(4096))
    return "more than the limit was written"

def processor():
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"] + 1, limits["cpu_seconds"] + 2))
    return "the limit can be raised"

def count():
    for number in range(limits["processes"] + 3):
        if os.fork() == 0:
            time.sleep(60)
    return "more than the limit were started"

def handles():
    kept = [open("/dev/null") for number in range(limits["files"])]
    return "more than the limit were opened"

for name, attempt in {
    "network": network, "processes": processes, "files": files, "privileges": privileges, "environment": environment,
    "memory": memory, "total memory": total, "disk": disk, "processor": processor, "open files": handles,
    "process count": count,
}.items():
    try:
        problem = attempt()
    except (OSError, ValueError, MemoryError):
        problem = ""
    print(name, problem, sep="\\t", flush=True)
"""
