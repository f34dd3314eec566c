"""The speed of an earlier run of a recipe, from its own metrics: what a plan on this machine can expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.machine.hardware import Machine
from lora_ns.plan.speed import Measured
from lora_ns.recipe.recipe import Recipe
from lora_ns.run.overview import number_in, overview, within
from lora_ns.run.paths import RunPaths
from lora_ns.run.tail import MetricsTail

_TOKENS, _SECONDS = "num_input_tokens_seen", "train_runtime"


def measured_speed(recipe: Recipe, folder: Path, machine: Machine) -> Measured | None:
    """Return the speed of the run in a recipe's `output_dir`, if it trained the same base on such a CPU.

    Args:
        recipe: the recipe.
        folder: folder of the recipe.
        machine: the machine that is planned for.

    Returns:
        None if there is no such run, it is damaged, or it logged fewer than two steps.
    """
    path = folder / recipe.training.output_dir
    files = RunPaths(path)
    if not files.manifest_file.is_file():
        return None
    manifest = overview(path, measures_size=False).manifest
    found = [within(manifest, *keys) for keys in (("base", "name"), ("machine", "cpu"), ("plan", "device", "value"))]
    if found != [recipe.model.name_or_path, machine.cpu, machine.accelerator] or machine.gpus:
        return None
    speed = tokens_per_second(MetricsTail(files.metrics).read()[0])
    return None if speed is None else Measured(speed, str(recipe.training.output_dir))


def tokens_per_second(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the speed between the first and the last logged step; None for fewer than two."""
    clocks = [(number_in(row, _TOKENS), number_in(row, _SECONDS)) for row in rows]
    pairs = [(tokens, seconds) for tokens, seconds in clocks if tokens is not None and seconds is not None]
    if len(pairs) < 2:
        return None
    (first, began), (last, ended) = pairs[0], pairs[-1]
    if ended <= began or last <= first:
        return None
    return (last - first) / (ended - began)
