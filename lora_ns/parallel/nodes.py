"""This machine among several that train together: its address, its network, its folder."""

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
    """This machine, and where it meets the others."""

    count: int
    """Machines that train together."""
    host: str
    port: int
    address: str
    """What the others reach this one by."""
    interface: str | None
    """The network device with that address."""
    is_host: bool
    """Whether the others come to this one."""
    timeout: int = 1800
    """Seconds to wait for the others."""

    def folder(self, path: Path) -> Path:
        """Where this machine keeps its copy of a run: they may share a disk, or not."""
        return path if self.is_host else path.with_name(f"{path.name}.at-{self.address}")


def this_node(asked: Strategy) -> Node | None:
    """This machine, if a recipe asks for several.

    Raises:
        UsageError: if the meeting point cannot be reached, or another program listens there.
    """
    place = _shared_meeting(asked)
    if place is None or not isinstance(asked, Processes):
        return None
    host, _, port = place.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(found[0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[4])  # which sends nothing
            address = str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:  # the second where a part of the name is empty, or too long
        said = error.strerror if isinstance(error, OSError) else None
        what = f"{_KEY}: {host} cannot be reached from here: {said or error}"
        raise UsageError(Problem("", what, "write address and port of one of the machines")) from None
    is_host = _is_own(found[0], found[4])
    return Node(asked.num_nodes, host, int(port), address, _interface(address), is_host, asked.timeout)


def own_folder(path: Path, asked: Strategy) -> Path:
    """Where this machine keeps its copy of a run. Raises `UsageError`, as `this_node`."""
    node = this_node(asked)
    return node.folder(path) if node else path


def resume_command(path: Path, asked: Strategy) -> str:
    """What goes on with a run, as one types it."""
    place = f" --rdzv-endpoint {_shared_meeting(asked)}" if _shared_meeting(asked) else ""
    return f"`lorans train {path}{place} --resume`"


def check_meeting(path: Path, asked: Strategy, named: str | None) -> None:
    """The user says where a run that goes on by its folder alone meets other machines.

    Where processes meet, they unpickle what is handed to them, so it is not the folder, which may be a stranger's, that
    decides whom this machine trusts.

    Args:
        path: the run.
        asked: how its recipe has it trained.
        named: the place that the user names.

    Raises:
        UsageError: if it is not the run's.
    """
    wanted = _shared_meeting(asked)
    if named == wanted:
        return
    if wanted is None:
        raise UsageError(Problem(str(path), "is trained on one machine, and meets no other", "leave it away"))
    what = f"meets other machines at {wanted}, and what answers there can run code on this one"
    remedy = f"if it is a machine of yours: {resume_command(path, asked)}; to meet elsewhere, name the recipe"
    raise UsageError(Problem(str(path), what, remedy))


def _shared_meeting(asked: Strategy) -> str | None:
    """Where machines meet; None if there is one."""
    return asked.rdzv_endpoint if isinstance(asked, Processes) and asked.num_nodes > 1 else None


def _is_own(family: int, place: tuple[object, ...]) -> bool:
    """Whether an address is this machine's."""
    with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.bind((place[0], 0, *place[2:]))
        return True
    return False


def check_port(node: Node) -> None:
    """The meeting point is free on the machine that it is on. Raises `UsageError`."""
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
    """Whether somebody listens at the meeting point."""
    with contextlib.suppress(OSError), socket.create_connection((node.host, node.port), timeout=_CONNECT_SECONDS):
        return True
    return False


_CONNECT_SECONDS = 2.0


def _interface(address: str) -> str | None:
    import psutil  # which accelerate brings

    for name, found in psutil.net_if_addrs().items():
        if any(part.address.partition("%")[0] == address for part in found):
            return str(name)
    return None
