"""Serving the board on a port of this machine until it is interrupted."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lora_ns.errors import MissingError, Problem, UsageError
from lora_ns.files.reading import is_folder
from lora_ns.services.board.access import LOOPBACK


def serve(folder: Path, host: str, port: int, has_token: bool, tell: Callable[[str], None]) -> None:
    """Serve the board of a folder until Ctrl-C.

    Args:
        folder: the folder with the runs.
        host: address or name to listen on.
        port: port to listen on; 0 for any that is free.
        has_token: ask for a random token, which is in the address.
        tell: receives the address.

    Raises:
        UsageError: if there is no such folder, the port is taken, or another machine could read without a token.
        MissingError: if Starlette, uvicorn or matplotlib is not installed.
    """
    if not is_folder(folder):
        raise UsageError(Problem(str(folder), "no such folder", "name a folder with runs in it or below it"))
    if not has_token and host not in LOOPBACK:
        what = f"other machines could read the runs at {host} without a token"
        raise UsageError(Problem("--no-token", what, "remove it, or `--host`"))
    for package in ("starlette", "uvicorn", "matplotlib"):
        if find_spec(package) is None:
            raise MissingError(Problem("", f"the package `{package}` is not installed", f"pip install {package}"))
    import uvicorn

    from lora_ns.services.board.app import application

    listening = _listen(host, port)
    with contextlib.closing(listening):
        place = listening.getsockname()[1]
        token = secrets.token_urlsafe(24) if has_token else None
        app, shelf = application(folder.absolute(), token, host, place)
        threading.Thread(target=shelf.runs, daemon=True).start()  # the first page then finds them read
        config = uvicorn.Config(
            app, log_level="error", access_log=False, server_header=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        tell(address(host, place, token))
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def address(host: str, port: int, token: str | None) -> str:
    """Return the address of the first page."""
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `UsageError`, which names another port if this one is taken."""
    try:
        kind, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError):
        what = f"`{host}` is no address of this machine"
        raise UsageError(Problem("--host", what, "remove it to serve this machine alone")) from None
    listening = socket.socket(kind, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(place)
        listening.listen(64)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            what = f"port {port} is in use"
            raise UsageError(Problem("--port", what, f"`--port {_free_port(host)}` is free")) from None
        if error.errno == errno.EACCES:
            raise UsageError(Problem("--port", f"port {port} needs more rights", "write a port from 1024")) from None
        what = f"cannot listen at {host}: {error.strerror}"
        raise UsageError(Problem("--host", what, "name an address of this machine")) from None
    return listening


def _free_port(host: str) -> int:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
