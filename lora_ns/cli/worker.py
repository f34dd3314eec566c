"""`lorans worker`: one of the processes of `lorans infer` and `lorans eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def worker(folder: Annotated[Path, typer.Argument()], number: Annotated[int, typer.Argument(min=0)]) -> None:
    """Answer a share of the rows; `lorans infer` and `lorans eval` start this command."""
    from lora_ns.launch.workers import WorkerFiles, end_with_parent, reporting_to_parent

    end_with_parent()
    files = WorkerFiles(folder, number)
    with reporting_to_parent(files):
        from lora_ns.launch.answering import work

        work(files)
