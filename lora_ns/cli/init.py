"""`lorans init`: create a folder with a recipe."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli import complete
from lora_ns.cli.asking import ask_option, ask_text, can_ask
from lora_ns.cli.options import Overrides
from lora_ns.cli.terminal import say, say_coloured, say_wrapped
from lora_ns.errors import Problem, UsageError, did_you_mean

if TYPE_CHECKING:
    from lora_ns.services.init.question import Question

QUICKSTART = "the quickstart"


@dataclass(frozen=True)
class _Given:
    """Arguments of the command line, before questions about the rest."""

    folder: Path | None
    recipe: str | None
    model: str | None
    method: str | None
    data: str | None


def init(
    folder: Annotated[Path | None, typer.Argument(help="Folder to create.", show_default=False)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="Recipe to start from (see --list). Default: the quickstart.",
            show_default=False,
            autocompletion=complete.starts,
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the recipes to start from.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Base model: a hub id, a folder or a GGUF file.", show_default=False)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="PEFT method.", show_default=False, autocompletion=complete.methods),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Training rows: a file, a folder or a pattern.", show_default=False),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="CAUSAL_LM, SEQ_CLS or TOKEN_CLS. Default: chosen by the rows.",
            show_default=False,
            autocompletion=complete.tasks,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="Table of the objective, such as kto, orpo or reward. Default: chosen by the rows.",
            show_default=False,
            autocompletion=complete.objectives,
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006 -- typer's way to say "none"
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Use the defaults without asking.")] = False,
) -> None:
    """Create a folder with a recipe for your rows and your base model.

    Existing files are never overwritten. Without arguments, lorans asks for them on a terminal.
    """
    from lora_ns.recipe.starters import STARTS

    if listing:
        for name, start in STARTS.items():
            say_wrapped(start.summary, f"{name:<14} ", " " * 15, (name, "cyan"))
        return
    asks = can_ask() and not yes
    given = _Given(folder, recipe, model, method, data)
    if folder is None:
        if not (asks or yes):
            raise UsageError(Problem("", "no folder given", "write `lorans init NAME`"))
        given = _completed(given, asks)
    _make(given, task, objective, overrides, asks)


def _make(given: _Given, task: str | None, objective: str | None, overrides: list[str], asks: bool) -> None:
    """Check what is given, draft the recipe, and write the folder. Raises `LoransError`."""
    from lora_ns.methods import METHODS
    from lora_ns.objectives import OBJECTIVE_TABLES, TASK_TYPES
    from lora_ns.recipe.starters import STARTS
    from lora_ns.services.init.draft import Wanted
    from lora_ns.services.init.make import make_files, write_files
    from lora_ns.services.init.question import take_defaults

    assert given.folder is not None, "a folder is given or asked for"
    _check_known("--recipe", "recipe", given.recipe, STARTS)
    _check_known("--method", "method", given.method, METHODS)
    _check_known("--task", "task", task, TASK_TYPES)
    _check_known("--objective", "objective", objective, OBJECTIVE_TABLES)
    _check_free(given.folder)
    wanted = Wanted(given.folder, given.recipe, given.data, given.model, given.method, task, overrides, objective)
    files, reasons = make_files(wanted, _ask if asks else take_defaults)
    write_files(given.folder, files)
    for reason in reasons:
        say_wrapped(reason, rest="  ", head=(reason.partition(":")[0], "cyan"))
    written = given.folder / "recipe.toml"
    say(f"wrote {written}; to check it:")
    say_coloured([(f"  lorans validate {written}", "cyan")])


def _check_known(option: str, kind: str, name: str | None, known: Collection[str]) -> None:
    if name is not None and name not in known:
        remedy = did_you_mean(name, known, beside=f"one of: {', '.join(known)}")
        raise UsageError(Problem(option, f"no {kind} `{name}`", remedy))


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(Problem(str(folder), "is not empty", "choose a new folder"))


def _completed(given: _Given, asks: bool) -> _Given:
    """Complete the arguments with the user's answers, or with defaults."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(given.data).name.split(".")[0]).strip("-") if given.data else ""
    folder = _free_name(stem or "my-task")
    if not asks:
        return _Given(Path(folder), given.recipe, given.model, given.method, given.data)
    chosen = Path(ask_text("folder to create", folder))
    _check_free(chosen)
    data, is_bare = given.data, given.recipe is None
    if data is None and is_bare:
        answer = ask_text("training rows (a file, a folder or a pattern)", QUICKSTART)
        data = None if answer == QUICKSTART else answer
    model, method = given.model, given.method
    if model is None and is_bare:
        model = ask_text("base model (a hub id, a folder or a GGUF file)", "lorans:nano")
    if method is None and is_bare:
        method = ask_text("PEFT method (`lorans methods` lists them)", "lora")
    return _Given(chosen, given.recipe, model, method, data)


def _free_name(name: str) -> str:
    number, free = 1, name
    while Path(free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _ask(question: Question) -> int:
    return ask_option(question.text, question.options)
