"""`lorans init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lora_ns.cli import complete
from lora_ns.cli.terminal import say
from lora_ns.errors import Problem, UsageError


def init(
    folder: Annotated[Path | None, typer.Argument(help="Folder to make.", show_default=False)] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="What to start from; see --list.", autocompletion=complete.starts)
    ] = "quickstart",
    listing: Annotated[bool, typer.Option("--list", help="List the recipes to start from.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="Base model instead.", show_default=False)] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="PEFT method instead.", show_default=False, autocompletion=complete.methods),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Training file instead.", show_default=False)] = None,
) -> None:
    """Make a folder with a recipe, its schema, and what belongs beside it; nothing is overwritten."""
    from lora_ns.files.disk import write_atomic
    from lora_ns.methods import METHODS
    from lora_ns.recipe.starters import STARTS, write_folder

    if listing:
        for name, start in STARTS.items():
            say(f"{name:<14} {start.summary}")
        return
    if folder is None:
        raise UsageError(Problem("", "no folder is named", "`lorans init NAME`"))
    if recipe not in STARTS:
        raise UsageError(Problem("--recipe", f"no recipe `{recipe}`", f"one of: {', '.join(STARTS)}"))
    if method is not None and method not in METHODS:
        raise UsageError(Problem("--method", f"no method `{method}`", f"one of: {', '.join(METHODS)}"))
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise UsageError(Problem(str(folder), "is not empty", "name a new folder"))
    if data is not None and Path(data).exists() and not Path(data).is_absolute():
        data = os.path.relpath(data, folder)  # a recipe names its files from where it lies
    for name, text in write_folder(STARTS[recipe], folder.resolve().name, model, data, method).items():
        write_atomic(folder / name, text)
    say(f"{folder / 'recipe.toml'}: next, `lorans validate {folder / 'recipe.toml'}`")
