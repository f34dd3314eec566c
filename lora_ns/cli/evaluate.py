"""`lorans eval`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_ns.cli.answering import AskedRun
from lora_ns.cli.options import AsJson, BasePath, Force, Gpus, NumProcesses, RunPath, TrustRemoteCode
from lora_ns.cli.results import show_evaluation
from lora_ns.cli.show import Progress, forcing, note
from lora_ns.cli.trust import trust_run
from lora_ns.errors import Problem, UsageError
from lora_ns.formats import Preference

if TYPE_CHECKING:
    from lora_ns.data.rows import Row
    from lora_ns.recipe.dataset import Dataset


DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="File of rows with answers; default: the rows that a run with exact match stored.",
        show_default=False,
    ),
]


ExactMatch = Annotated[bool, typer.Option("--exact-match", help="Generate answers and count the correct ones.")]


MaxBadRows = Annotated[
    int | None,
    typer.Option(
        "--max-bad-rows",
        metavar="N",
        min=0,
        help="Skip up to this many unreadable rows of --data; default: as in the run's recipe.",
        show_default=False,
    ),
]


def evaluate(
    run: RunPath,
    data: DataFile = None,
    exact_match: ExactMatch = False,
    max_bad_rows: MaxBadRows = None,
    base: BasePath = None,
    force: Force = False,
    trust_remote_code: TrustRemoteCode = False,
    num_processes: NumProcesses = None,
    gpus: Gpus = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run's adapter on rows with answers.

    Text gets the loss, and exact match on request; preference pairs get the loss and the share of pairs that the model
    ranks right; runs with rewards get the mean reward and pass@1; classes, scores and tags get their usual metrics.
    """
    from lora_ns.machine import libraries

    asked = AskedRun.of(run, num_processes, gpus, "measures")
    recipe = asked.manifest.recipe
    if asked.processes > 1 and (Preference in recipe.objective.examples or recipe.objective.reward_functions):
        what = f"a run of `[{recipe.objective.toml}]` is measured in one process"
        raise UsageError(Problem("--num-processes" if gpus is None else "--gpus", what, "leave it out"))
    rows = None if data is None else _read(data, recipe.dataset, max_bad_rows)
    trust_run(trust_remote_code, asked.folder, base)
    with Progress(2) as progress, forcing(force) as forced, libraries.Noise():
        libraries.prepare(asked.machine, asked.processes)
        from lora_ns.answers.opened import open_run
        from lora_ns.services.evaluate import evaluate as service

        opened = open_run(asked.folder, base, force=forced)
        result = service(
            opened,
            rows,
            exact_match or recipe.evaluation.exact_match,
            lambda run: asked.compute(run, progress, base, None, force),
        )
    show_evaluation(result, as_json)


def _read(data: Path, table: Dataset, max_bad_rows: int | None) -> Sequence[Row]:
    """Read the rows of a file, and report those that cannot be read. Raises `DataError`."""
    from lora_ns.data.files.paths import layout_of
    from lora_ns.data.files.read import read_files
    from lora_ns.data.rows import left_out_note

    most = table.max_bad_rows if max_bad_rows is None else max_bad_rows
    found = read_files([data], max_bad_rows=most, layout=layout_of(table))
    if found.left_out:
        note(left_out_note(found.left_out))
    return found.rows
