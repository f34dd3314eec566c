"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lora_ns.cli import complete
from lora_ns.errors import Problem, UsageError

RecipePath = Annotated[
    Path, typer.Argument(help="The recipe, a TOML file.", show_default=False, autocompletion=complete.recipe_files)
]


RunPath = Annotated[
    Path,
    typer.Argument(
        help="The run directory, the `output_dir` of a training.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]


Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key, such as training.seed=1; may be repeated.",
        show_default=False,
        autocompletion=complete.overrides,
    ),
]


Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Type of the numbers, if not the run's own.", show_default=False),
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


BasePath = Annotated[
    Path | None, typer.Option("--base", help="Where the base lies now, if not where it was.", show_default=False)
]


Force = Annotated[
    bool,
    typer.Option("--force", help="Use base, tokenizer, template and adapter though they are not those of the run."),
]


NumProcesses = Annotated[
    int | None,
    typer.Option("--num-processes", min=1, help="Processes that share the rows.", show_default=False),
]


Gpus = Annotated[
    str | None,
    typer.Option("--gpus", metavar="auto|N", help="The same, one for each GPU or for N.", show_default=False),
]


TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow the code of the base, or of a run's tokenizer, on this machine: its files and digest are shown.",
    ),
]


def check_one_of(resume: bool, overwrite: bool) -> None:
    """A run that is there is continued or replaced. Raises `UsageError`."""
    if resume and overwrite:
        raise UsageError(Problem("", "--resume and --overwrite contradict each other", "keep one of them"))


def asked_processes(num_processes: int | None, gpus: str | None, does: str) -> int | Literal["auto"] | None:
    """How many processes the two options ask for, `auto` for one on each GPU; None if they are not given.

    Args:
        num_processes: of `--num-processes`.
        gpus: of `--gpus`.
        does: what the command does, for the message.

    Raises:
        UsageError: if they contradict each other, or there is no GPU.
    """
    if num_processes is not None and gpus is not None:
        raise UsageError(Problem("", "--num-processes and --gpus say the same", "keep one of them"))
    if gpus is None:
        return num_processes
    from lora_ns.machine.hardware import detect

    if gpus != "auto" and not (gpus.isdecimal() and int(gpus)):
        raise UsageError(Problem("--gpus", f"`{gpus}`", 'write "auto" or a number from 1'))
    if not detect().gpus:
        raise UsageError(Problem("--gpus", "there is no GPU here", f"`--num-processes N` {does} on the CPU"))
    return "auto" if gpus == "auto" else int(gpus)
