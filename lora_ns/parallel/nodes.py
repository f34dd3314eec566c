"""This machine among several that train together: address, network interface and folder."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import Problem, UsageError
from lora_ns.recipe.distributed import Processes, Strategy

_KEY = "distributed.rdzv_endpoint"


@dataclass(frozen=True)
class Node:
    """This machine, and the rendezvous with the others."""

    count: int
    """Number of machines that train together."""
    host: str
    port: int
    address: str
    """Address at which the others reach this machine."""
    interface: str | None
    """Network interface with that address."""
    is_host: bool
    """True if the rendezvous is on this machine."""
    timeout: int = 1800
    """Seconds to wait for the others."""

    def folder(self, path: Path) -> Path:
        """Return this machine's folder for its copy of a run, whether or not the machines share a disk."""
        return path if self.is_host else path.with_name(f"{path.name}.at-{self.address}")


def this_node(strategy: Strategy) -> Node | None:
    """Describe this machine, if the recipe uses several; None otherwise.

    Raises:
        UsageError: if the rendezvous cannot be reached, or another program listens there.
    """
    place = _shared_meeting(strategy)
    if place is None or not isinstance(strategy, Processes):
        return None
    host, _, port = place.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[4])  # UDP: this sends nothing
            address = str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:  # UnicodeError if a label of the name is empty or too long
        reason = error.strerror if isinstance(error, OSError) else None
        what = f"{_KEY}: {host} cannot be reached from here: {reason or error}"
        raise UsageError(Problem("", what, "write the address and port of one of the machines")) from None
    is_host = _is_own(found[0], found[4])
    return Node(strategy.num_nodes, host, int(port), address, _interface(address), is_host, strategy.timeout)


def own_folder(path: Path, strategy: Strategy) -> Path:
    """Return this machine's folder for its copy of a run. Raises `UsageError` like `this_node`."""
    node = this_node(strategy)
    return node.folder(path) if node else path


def resume_command(path: Path, strategy: Strategy) -> str:
    """Return the command that resumes a run, in backticks."""
    place = f" --rdzv-endpoint {_shared_meeting(strategy)}" if _shared_meeting(strategy) else ""
    return f"`lorans train {path}{place} --resume`"


def check_meeting(path: Path, strategy: Strategy, named: str | None) -> None:
    """Require the user to name the rendezvous if a run on several machines is resumed from its folder.

    Processes that meet there unpickle data from each other. The folder may be a stranger's, so it must not decide which
    machine is trusted.

    Args:
        path: the run directory.
        strategy: the strategy of its recipe.
        named: the rendezvous that the user gives, or None.

    Raises:
        UsageError: if it is not the run's.
    """
    wanted = _shared_meeting(strategy)
    if named == wanted:
        return
    if wanted is None:
        raise UsageError(
            Problem(str(path), "is trained on one machine and has no rendezvous", "remove `--rdzv-endpoint`")
        )
    what = f"meets other machines at {wanted}; whoever answers there can run code on this machine"
    remedy = f"if you trust that machine: {resume_command(path, strategy)}; to use another rendezvous, name the recipe"
    raise UsageError(Problem(str(path), what, remedy))


def _shared_meeting(strategy: Strategy) -> str | None:
    """Return the rendezvous of several machines; None for a single machine."""
    return strategy.rdzv_endpoint if isinstance(strategy, Processes) and strategy.num_nodes > 1 else None


def _is_own(family: int, place: tuple[object, ...]) -> bool:
    """True if an address belongs to this machine."""
    with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.bind((place[0], 0, *place[2:]))
        return True
    return False


def check_port(node: Node) -> None:
    """Check on the host of the rendezvous that the port is free. Raises `UsageError`."""
    if not node.is_host:
        return
    family, *_, place = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(place)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            what = f"{_KEY}: port {node.port} is in use on this machine"
            raise UsageError(Problem("", what, "write another port, the same on all machines")) from None


def is_met(node: Node) -> bool:
    """True if a program listens at the rendezvous."""
    with contextlib.suppress(OSError), socket.create_connection((node.host, node.port), timeout=_CONNECT_SECONDS):
        return True
    return False


_CONNECT_SECONDS = 2.0


def _interface(address: str) -> str | None:
    import psutil  # a dependency of accelerate

    for name, found in psutil.net_if_addrs().items():
        if any(part.address.partition("%")[0] == address for part in found):
            return str(name)
    return None
