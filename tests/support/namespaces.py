"""Several machines on one: network namespaces joined by a bridge. They need root and iproute2."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PORT = 29_517


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def can_be_made() -> bool:
    """Test that network namespaces can be created here."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    try:
        ip("netns", "add", "lorans-try")
        ip("netns", "del", "lorans-try")
    except subprocess.CalledProcessError:
        return False
    return True


def address(number: int) -> str:
    """The address of a machine."""
    return f"10.77.0.{number + 1}"


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[str]]:
    """Create machines, and yield the names of their namespaces."""
    mark = f"l{os.getpid() % 100_000}"
    names = [f"{mark}n{number}" for number in range(count)]
    hub = f"{mark}hub"
    try:
        ip("netns", "add", hub)
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names):
            here, there = f"{mark}a{number}", f"{mark}b{number}"
            ip("netns", "add", name)
            ip("link", "add", here, "type", "veth", "peer", "name", there)
            ip("link", "set", here, "netns", name)
            ip("link", "set", there, "netns", hub)
            ip("-n", hub, "link", "set", there, "master", "bridge")
            ip("-n", hub, "link", "set", there, "up")
            ip("-n", name, "addr", "add", f"{address(number)}/24", "dev", here)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", here, "up")
        yield names
    finally:
        for name in (*names, hub):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def start(name: str, folder: Path, count: int, *options: str) -> subprocess.Popen[bytes]:
    """Start `lorans train` on a machine, with its output in a file of the folder."""
    meeting = ["--num-processes", "1", "--nodes", str(count), "--rdzv-endpoint", f"{address(0)}:{PORT}"]
    command = [sys.executable, "-m", "lora_ns", "train", "recipe.toml", *meeting, *options]
    with (folder / f"{name}.out").open("ab") as out:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, *command],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_of(folder: Path, number: int) -> Path:
    """The run directory of a machine."""
    return folder / ("run" if number == 0 else f"run.at-{address(number)}")


def kill(process: subprocess.Popen[bytes], run: Path) -> None:
    """Kill all processes of a machine at once, as a power cut does: command, launcher and ranks."""
    found = subprocess.run(["pgrep", "-f", f"{run} --launched"], check=False, capture_output=True, text=True)
    for number in (process.pid, *map(int, found.stdout.split())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()
