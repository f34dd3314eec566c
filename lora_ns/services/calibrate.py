"""Quantising a merged model on rows of its run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lora_ns.answers.opened import Opened
from lora_ns.data.prepared import saved_rows
from lora_ns.errors import Problem, UsageError
from lora_ns.exports.calibrated import quantise
from lora_ns.files.reading import is_folder

ROWS = 128
"""Rows of the training data that weights are calibrated on."""

_TOKENS = 512
"""Tokens of each row."""


def calibrated(opened: Opened, merged: Path, folder: Path, kind: str) -> None:
    """Quantise a merged model by GPTQ or AWQ on the run's own rows, and write it to a folder.

    Args:
        opened: the run.
        merged: the folder of the merged model.
        folder: the folder to write.
        kind: `gptq` or `awq`.

    Raises:
        UsageError: if the run's model does not write text, or its rows are gone.
        RunError: if GPT-QModel cannot quantise it.
    """
    if not opened.manifest.recipe.objective.writes_text:
        what = f"GPT-QModel quantises models that write text, and the run trained a classifier: `{kind}`"
        raise UsageError(Problem("--type", what, "use `--type nf4` or `--type int8`"))
    try:
        rows = list(_rows(opened.run.data / "train"))
    except ValueError:
        rows = []  # they are damaged
    if not rows:
        what = f"`--type {kind}` is calibrated on training rows, and {opened.run.data} has none that can be read"
        raise UsageError(Problem(str(opened.run.path), what, "train again, or use `--type nf4`"))
    quantise(merged, folder, kind, opened.manifest.plan.device.value, rows)


def _rows(folder: Path) -> Iterator[list[int]]:
    """Yield the tokens of the first training rows."""
    if is_folder(folder):
        for row, _ in zip(saved_rows(folder), range(ROWS), strict=False):
            if ids := [int(one) for one in row.get("input_ids", ())][:_TOKENS]:
                yield ids
