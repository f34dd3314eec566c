"""Comparison of two runs that should be the same: their adapters, and the losses on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_ns.files.reading import is_file
from lora_ns.model.adapter import WEIGHTS
from lora_ns.run.directory import RunDir
from lora_ns.run.metrics import read_metrics


@dataclass(frozen=True)
class Apart:
    """How far two adapters are apart."""

    relative: float | None
    """Norm of the difference of all weights, relative to that of the first; None if they cannot be compared."""
    first_step: int | None
    """First logged step whose losses differ; None if none does."""
    losses: tuple[float, float] | None
    """The losses of that step, before and now."""


def apart(before: RunDir, now: RunDir) -> Apart:
    """Compare the adapters and the logged losses of two runs."""
    step, losses = _first_step(before.metrics, now.metrics)
    return Apart(_relative(before.adapter / WEIGHTS, now.adapter / WEIGHTS), step, losses)


def _relative(before: Path, now: Path) -> float | None:
    """The relative difference of two files of weights; None if one is missing, or they have other tensors."""
    from safetensors.torch import load_file

    if not is_file(before) or not is_file(now):
        return None
    one, other = load_file(before), load_file(now)
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return None
    moved = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    whole = sum(float(value.double().square().sum()) for value in one.values())
    return float((moved / whole) ** 0.5) if whole else None


def _first_step(before: Path, now: Path) -> tuple[int | None, tuple[float, float] | None]:
    first, second = (
        {row["step"]: float(row["loss"]) for row in read_metrics(file).rows if "loss" in row} for file in (before, now)
    )
    for step in sorted(first.keys() & second.keys()):
        if first[step] != second[step]:
            return step, (first[step], second[step])
    return None, None
