"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lora_ns.cli import complete

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
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
BasePath = Annotated[
    Path | None, typer.Option("--base", help="Where the base lies now, if not where it was.", show_default=False)
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Use base, tokenizer, template and adapter though they are not those of the run."),
]
