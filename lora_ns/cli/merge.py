"""`lorans merge`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lora_ns.cli.export import rows_of, rows_of_proof
from lora_ns.cli.options import AsJson, BasePath, Checkpoint, DtypeName, Force, Into, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_result
from lora_ns.cli.show import Progress, forcing, note, print_json
from lora_ns.cli.trust import trust_run
from lora_ns.errors import Problem, UsageError, did_you_mean

if TYPE_CHECKING:
    from lora_ns.run.directory import RunDir
    from lora_ns.services.combine import Combination
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
    other: Annotated[
        list[Path],
        typer.Option(
            "--with", metavar="RUN", help="Another run on the same base. Repeat it for more.", show_default=False
        ),
    ] = [],  # noqa: B006 -- typer's way to say "none"
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="W,W,...",
            help="Weights of the runs, such as 0.7,0.3; default: equal, with a sum of 1.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="How several runs are combined, by PEFT: cat (their exact sum), svd, linear, ties, dare_ties, "
            "dare_linear, magnitude_prune; default: cat.",
            show_default=False,
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            "--density",
            min=0,
            max=1,
            help="Share of the values that ties, dare and magnitude_prune keep; default: 0.5.",
            show_default=False,
        ),
    ] = None,
    into: Into = None,
    checkpoint: Checkpoint = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Merge a run's adapter into its base, and write a complete Hugging Face model, proven to be the trained one.

    This is `lorans export --to merged`, for one run or for several on one base, which are combined first. The folder is
    read back and compared with the trained model. It has a model card, and `export_report.json` with the comparison.
    The command ends with 1 if they differ.
    """
    from lora_ns.machine import libraries
    from lora_ns.machine.hardware import detect
    from lora_ns.run.directory import RunDir
    from lora_ns.services.export_merged import export_merged

    opened = RunDir.open_to_use(run, note)
    combination = _combination(opened, other, weights, method, density)
    trust_run(trust_remote_code, opened, base)
    with Progress(2) as progress, forcing(force) as forced, libraries.Noise(), contextlib.ExitStack() as stack:
        libraries.prepare(detect())
        from lora_ns.answers.checkpoints import at_checkpoint

        used = stack.enter_context(at_checkpoint(opened, checkpoint, progress.warn, base, forced))
        if combination is not None:
            combination = replace(combination, runs=(used, *combination.runs[1:]))
        place = output.absolute()
        chosen = into == "original"
        result = export_merged(used, place, dtype, max_shard_size, base, forced, progress, combination, chosen)
    if as_json:
        proof = {"verified": result.proof.is_verified, "proof": asdict(result.proof)}
        print_json({**asdict(cast("MergeResult", result.made)), **proof, "lineage": result.lineage})
    else:
        show_result("merged", [*rows_of(result), *rows_of_proof(result.proof), ("lineage", result.lineage)])


def _combination(
    run: RunDir, others: Sequence[Path], weights: str | None, method: str | None, density: float | None
) -> Combination | None:
    """Read the options for several runs; None for a single one. Raises `UsageError`."""
    from lora_ns.run.directory import RunDir
    from lora_ns.services.combine import METHODS, UNPRUNED, Combination

    given = {"--weights": weights, "--method": method, "--density": density}
    if not others:
        if unused := [option for option, value in given.items() if value is not None]:
            raise UsageError(Problem(unused[0], "has no effect on a single run", "name others: `--with RUN`"))
        return None
    runs = (run, *(RunDir.open_to_use(other, note) for other in others))
    chosen = next((one for one in METHODS if one == (method or "cat")), None)
    if chosen is None:
        what = f"`{method}` is no method of PEFT's `add_weighted_adapter`"
        raise UsageError(Problem("--method", what, did_you_mean(str(method), METHODS) or f"write {', '.join(METHODS)}"))
    if density is not None and chosen in UNPRUNED:
        raise UsageError(Problem("--density", f"has no effect with `--method {chosen}`", "leave it out"))
    return Combination(runs, _weights(weights, len(runs)), chosen, density)


def _weights(given: str | None, count: int) -> tuple[float, ...]:
    """The weights of runs. Raises `UsageError`."""
    if given is None:
        return (1 / count,) * count
    try:
        found = tuple(float(one) for one in given.split(","))
    except ValueError:
        found = ()
    if len(found) != count or not all(math.isfinite(one) for one in found):
        what = f"`{given}` is not {count} numbers, one for each run"
        raise UsageError(Problem("--weights", what, f"write for instance {','.join(['0.5'] * count)}"))
    return found
