"""`lorans merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.options import AsJson, BasePath, DtypeName, Force, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, forcing, note, number, print_json
from lora_ns.cli.trust import trust_run

if TYPE_CHECKING:
    from lora_ns.services.merge import MergeResult


def merge(
    run: RunPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write the merged model to.", show_default=False)
    ],
    base: BasePath = None,
    dtype: Annotated[
        DtypeName | None,
        typer.Option(
            "--dtype",
            metavar="DTYPE",
            help="Dtype of the merged weights: float32, bfloat16 or float16; default: the base's own.",
            show_default=False,
        ),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", metavar="SIZE", help="Largest size of a weight file, such as 5GB.")
    ] = "50GB",
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Merge a run's adapter into its base and write a complete Hugging Face model.

    The merged model is compared with the base and its adapter before it is written.
    """
    from lora_ns.machine import libraries
    from lora_ns.machine.hardware import detect
    from lora_ns.run.directory import RunDir
    from lora_ns.services.merge import merge as service

    opened = RunDir.open_to_use(run, note)
    trust_run(trust_remote_code, opened, base)
    with Progress(2) as progress, forcing(force) as forced, libraries.Noise():
        libraries.prepare(detect())
        result = service(opened, output.absolute(), base, dtype, forced, progress, max_shard_size)
    if as_json:
        print_json(result)
        return
    show_result(
        "merged",
        [
            ("merged model", result.output),
            ("parameters", f"{number(result.parameters)} in {result.dtype}"),
            *([("memory", f"the whole model, because {result.whole_model}")] if result.whole_model else []),
            ("merge check", f"passed (logits differ by at most {result.largest_difference:.1e} of the largest)"),
            *(
                [("rounding", f"{result.rounded_difference:.1e} of the largest logit; `--dtype float32` avoids it")]
                if result.dtype != "float32"
                else []
            ),
            *([("8 bits", _about_int8(result))] if result.int8_difference is not None else []),
        ],
    )


def _about_int8(result: MergeResult) -> str:
    """Report how far the merged model is from the trained one because it does not round its inputs to 8 bits."""
    return (
        f"training rounded the inputs of layers, the merged model does not: logits differ by "
        f"{result.int8_difference:.1e} of the largest, KL {result.int8_divergence:.1e}"
    )
