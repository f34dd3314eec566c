"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lora_ns.cli import complete
from lora_ns.errors import Problem, UsageError

RecipePath = Annotated[
    Path,
    typer.Argument(help="Path to the recipe, a TOML file.", show_default=False, autocompletion=complete.recipe_files),
]


RecipePaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="RECIPE|FOLDER",
        help="Recipes, and folders with recipes in them and below them.",
        show_default=False,
        autocompletion=complete.recipe_files,
    ),
]


RunPath = Annotated[
    Path,
    typer.Argument(
        help="Run directory: the `output_dir` of the recipe.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]


AnyPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|ARTEFACT",
        help="Run directory, or an adapter, a model or a GGUF file that `lorans export` or `merge` made of a run.",
        show_default=False,
        autocompletion=complete.run_folders,
    ),
]


Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe, such as training.seed=1. Repeat it for more keys.",
        show_default=False,
        autocompletion=complete.overrides,
    ),
]


DtypeName = Literal["float32", "bfloat16", "float16"]


Dtype = Annotated[
    DtypeName | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Dtype to compute in: float32, bfloat16 or float16; default: the run's own.",
        show_default=False,
    ),
]


Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="STEP|last|best",
        help="Use the adapter of a checkpoint, also of an unfinished run: that of a step, the last or the best one.",
        show_default=False,
    ),
]


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")]


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


BasePath = Annotated[
    Path | None, typer.Option("--base", help="Path to the base model, if it has moved.", show_default=False)
]


Into = Annotated[
    Literal["trained", "original"] | None,
    typer.Option(
        "--into",
        metavar="WEIGHTS",
        help="Weights of a quantised base to merge into: trained, as training computed with them; or original, as they "
        "were before, at a price that is measured and stated; default: trained.",
        show_default=False,
    ),
]


Force = Annotated[
    bool,
    typer.Option("--force", help="Continue even if the base, tokenizer, template or adapter does not match the run."),
]


NumProcesses = Annotated[
    int | None,
    typer.Option("--num-processes", metavar="N", min=1, help="Number of worker processes.", show_default=False),
]


Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="auto|N",
        help="Like --num-processes, with one process per GPU (`auto`) or N of them.",
        show_default=False,
    ),
]


TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Allow Python code that the base or tokenizer brings. Its files and digest are shown.",
    ),
]


def check_one_of(resume: bool, overwrite: bool) -> None:
    """Check that a run is either continued or replaced. Raises `UsageError`."""
    if resume and overwrite:
        raise UsageError(Problem("", "--resume and --overwrite contradict each other", "keep one of them"))


def asked_processes(num_processes: int | None, gpus: str | None, does: str) -> int | Literal["auto"] | None:
    """Return the number of processes that the options ask for: `auto` is one per GPU, None is no option.

    Args:
        num_processes: value of `--num-processes`.
        gpus: value of `--gpus`.
        does: verb of the command, for the message.

    Raises:
        UsageError: if they contradict each other, or there is no GPU.
    """
    if num_processes is not None and gpus is not None:
        raise UsageError(Problem("", "--num-processes and --gpus both set the number of processes", "keep one of them"))
    if gpus is None:
        return num_processes
    from lora_ns.machine.hardware import detect

    if gpus != "auto" and not (gpus.isdecimal() and int(gpus)):
        raise UsageError(Problem("--gpus", f"`{gpus}`", 'write "auto" or a number from 1'))
    if not detect().gpus:
        raise UsageError(Problem("--gpus", "this machine has no GPU", f"`--num-processes N` {does} on the CPU"))
    return "auto" if gpus == "auto" else int(gpus)
