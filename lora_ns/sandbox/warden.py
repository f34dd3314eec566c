"""The child process that builds the walls, and starts and ends a program inside of them.

Three processes: the warden, which waits outside; the first process of the new process namespace, with whose end the
kernel kills all others in it; and the program.
"""

from __future__ import annotations

import marshal
import os
import resource
import signal
import sys
from types import FrameType, ModuleType

from lora_ns.sandbox import harness
from lora_ns.sandbox.namespaces import (
    ENVIRONMENT,
    WallError,
    build_root,
    die_with_parent,
    give_up_privileges,
    hide_memory,
    leave,
)

TYPE_CHECKING = False  # `typing` is slow to import
if TYPE_CHECKING:
    from typing import Any, NoReturn

PAUSE_SECONDS = 0.02
"""Time between two looks at the memory of all processes."""


def main(parent: int, token: int, report: int, status: int) -> NoReturn:
    """Run the program that standard input describes.

    Args:
        parent: process that waits for this one.
        token: descriptor with the token of the report.
        report: descriptor for the report of the program.
        status: descriptor for the line that says how the program ended, or which wall is missing.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until it can be answered
    code, tests, limits = marshal.load(sys.stdin.buffer)
    try:
        user = leave()
        die_with_parent(signal.SIGTERM)
        first = os.fork() if os.getppid() == parent else None
    except (WallError, OSError) as error:
        _refuse(status, error)
    if first is None:
        os._exit(1)
    if first == 0:
        _first(code, tests, limits, user, (token, report, status))

    def end(_number: int, _frame: FrameType | None) -> None:
        try:  # noqa: SIM105 - contextlib is slow to import
            os.kill(first, signal.SIGKILL)
        except ProcessLookupError:
            pass

    signal.signal(signal.SIGTERM, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    for handle in (0, 1, 2, token, report, status):
        os.close(handle)
    os.waitpid(first, 0)  # returns when the kernel has ended every process of the namespace
    os._exit(0)


def _first(code: str, tests: list[str], limits: dict[str, Any], user: int, handles: tuple[int, int, int]) -> NoReturn:
    """Be the first process: build the rest of the walls, start the program, wait for its end."""
    token, report, status = handles
    try:
        build_root(user, limits["disk"])
        if (program := os.fork()) == 0:
            _program(code, tests, limits, user, handles)
        give_up_privileges(user)
        hide_memory()
        die_with_parent(signal.SIGKILL)
    except (WallError, OSError) as error:
        _refuse(status, error)
    for handle in (0, 1, 2, token, report):
        os.close(handle)
    try:
        end = _wait(program, limits)
    except OSError:  # the program has changed the limits of this process
        end = "changed"
    _say(status, end)
    os._exit(0)


def _wait(program: int, limits: dict[str, Any]) -> str:
    """Wait for the program, and say how it ended. Returns early if all processes together need too much memory."""
    is_measured = os.path.exists("/proc/1")  # noqa: PTH110
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        ended, result, used = os.wait4(-1, os.WNOHANG)
        if ended == program:
            code = os.waitstatus_to_exitcode(result)
            # The limit counts whole ticks of the clock, and may be reached well before this much was used.
            is_over = code == -signal.SIGKILL and used.ru_utime + used.ru_stime >= limits["cpu_seconds"] / 2
            return "processor" if is_over else f"exit {code}"
        if not ended:
            if is_measured and _resident() > limits["memory"]:
                return "memory"
            signal.sigtimedwait({signal.SIGCHLD}, PAUSE_SECONDS)


def _resident() -> int:
    """Resident memory of all other processes of the namespace, in bytes."""
    names = os.listdir("/proc")  # noqa: PTH208 - pathlib is slow to import
    pages = sum(_pages(name) for name in names if name.isdigit() and name != "1")
    return pages * resource.getpagesize()


def _pages(process: str) -> int:
    """Resident memory of a process, in pages; 0 if it has ended."""
    try:
        with open(f"/proc/{process}/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _program(code: str, tests: list[str], limits: dict[str, Any], user: int, handles: tuple[int, int, int]) -> NoReturn:
    """Be the program: nothing is left of the outside but standard output and two pipes."""
    token, report, status = handles
    os.setsid()
    try:
        token, report = _hidden(token, limits["files"]), _hidden(report, limits["files"])
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        _close_others({0, 1, 2, token, report, status})
        give_up_privileges(user)
        _limit(limits)
    except (WallError, OSError) as error:
        _refuse(status, error)
    os.close(status)
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    sys.argv[:] = ["solution.py"]
    for name in [name for name in sys.modules if name.partition(".")[0] in {"lora_ns", "__main__"}]:
        del sys.modules[name]
    sys.modules["__main__"] = ModuleType("__main__")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    harness.run(code, tests, token, report)
    os._exit(1)


def _hidden(handle: int, files: int) -> int:
    """The same pipe, with a descriptor that is not known beforehand."""
    import fcntl

    number = fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 8 + int.from_bytes(os.urandom(2), "big") % max(1, files - 24))
    os.close(handle)
    return number


def _close_others(kept: set[int]) -> None:
    last = 2
    for handle in [*sorted(kept - {0, 1, 2}), resource.getrlimit(resource.RLIMIT_NOFILE)[1]]:
        os.closerange(last + 1, handle)
        last = handle


def _limit(limits: dict[str, Any]) -> None:
    """Set the limits of a process. Without privileges, they can only be lowered."""
    for number, wanted in (
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["disk"]),
        (resource.RLIMIT_NPROC, limits["processes"] + 2),  # and the two above it
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        known = resource.getrlimit(number)[1]
        limit = wanted if known == resource.RLIM_INFINITY else min(wanted, known)
        resource.setrlimit(number, (limit, limit))  # both, so that no signal comes first that could be ignored


def _refuse(status: int, error: WallError | OSError) -> NoReturn:
    """End because a wall cannot be built."""
    wall, why = (error.wall, error.why) if isinstance(error, WallError) else ("processes", f"{error.strerror}")
    _say(status, f"wall {wall} {why}")
    os._exit(1)


def _say(status: int, text: str) -> None:
    os.write(status, text.encode())
