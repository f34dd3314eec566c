"""`lorans export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lora_ns.cli.options import AsJson, BasePath, Force, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, forcing, note, number, print_json
from lora_ns.cli.trust import trust_run
from lora_ns.errors import Problem, UsageError

Kind = Literal["plain"]


def export(
    run: RunPath,
    to: Annotated[Kind, typer.Option("--to", help="Kind of artefact: plain, a LoRA that every reader reads alike.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)],
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, help="Largest rank; default: that of the update, up to 512.", show_default=False),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            "--energy",
            min=0,
            max=1,
            help="Share of the sum of squared singular values that each layer keeps, such as 0.99; default: all.",
            show_default=False,
        ),
    ] = None,
    base: BasePath = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Export a run as an artefact that other programs read, and prove that it is the trained model.

    The artefact is read back by its own reader, and its logits are compared with those of the trained model.
    """
    from lora_ns.machine import libraries
    from lora_ns.machine.hardware import detect
    from lora_ns.run.directory import RunDir
    from lora_ns.services.export import export_plain

    del to  # there is one kind
    if energy == 0:
        raise UsageError(Problem("--energy", "0 keeps nothing", "give a share such as 0.99"))
    opened = RunDir.open_to_use(run, note)
    trust_run(trust_remote_code, opened, base)
    with Progress(2) as progress, forcing(force) as forced, libraries.Noise():
        libraries.prepare(detect())
        result = export_plain(opened, output.absolute(), rank, energy, base, forced, progress)
    if as_json:
        print_json(result)
        return
    found = result.comparison
    passed = f"passed on {found.probes} texts" if result.bound else f"{found.probes} texts"
    show_result(
        "exported",
        [
            ("plain LoRA", result.output),
            ("rank", f"{result.rank}, with lora_alpha = {result.rank}, in {number(result.layers)} layers"),
            *([("lost", f"up to {result.lost:.1%} of the update of a layer")] if result.lost else []),
            (
                "comparison",
                f"{passed}: logits differ by at most {found.largest_difference:.1e} of the largest, "
                f"KL {found.divergence:.1e}, {found.same_tokens:.1%} of the tokens are the same",
            ),
        ],
    )
