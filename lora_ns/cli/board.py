"""`lorans board`: a local page over all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.runs import RunsFolder
from lora_ns.cli.show import note
from lora_ns.cli.terminal import hand_over, say

PORT = 8420


def board(
    folder: RunsFolder = Path("outputs"),
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = PORT,
    host: Annotated[
        str,
        typer.Option("--host", metavar="ADDRESS", help="Address to listen on. By default this machine alone can read."),
    ] = "127.0.0.1",
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Ask for no token; every program and user of this machine can then read.")
    ] = False,
) -> None:
    """Serve a page over all runs in a folder: table, live curves, comparisons and reports. It only reads.

    Open the address that is printed. Ctrl-C ends it.
    """
    from lora_ns.services.board.access import LOOPBACK
    from lora_ns.services.board.serve import serve

    if host not in LOOPBACK:
        note(
            f"other machines can reach the board at {host}; the address is not encrypted, and its token lets them read"
        )
    serve(folder, host, port, not no_token, _tell)


def _tell(address: str) -> None:
    hand_over(f"board: {address}")  # `say` would hide the token
    say("Ctrl-C ends it", err=True)
