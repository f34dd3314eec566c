"""`lorans push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli.options import AsJson
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, print_json


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that `lorans export` wrote.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.", show_default=False)],
    public: Annotated[
        bool, typer.Option("--public", help="Allow a public repository; a new one is private without it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Push an exported folder to the Hugging Face hub.

    Only a folder whose report says that it is the trained model is sent. After a failure, the same command goes on:
    files that have arrived are not sent again.
    """
    from lora_ns.services.push import push as service

    with Progress(1) as progress:
        result = service(folder.absolute(), repo, public, progress)
    if as_json:
        print_json(result)
        return
    kind = "private" if result.private else "public"
    show_result(
        "pushed",
        [
            ("repository", f"{result.url} ({kind})"),
            ("commit", result.commit),
            ("files", f"{result.files:,}, {result.size / 1e9:,.2f} GB"),
        ],
    )
