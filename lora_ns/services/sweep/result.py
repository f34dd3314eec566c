"""The result of a sweep: trials in order, each against the best on the same rows, and the best recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lora_ns.errors import LoransError, RunError
from lora_ns.files.disk import write_atomic
from lora_ns.files.strict_json import strict_json
from lora_ns.recipe.load import ALTERNATIVES, LoadedRecipe, load_recipe
from lora_ns.recipe.overrides import override_key, parse_override
from lora_ns.recipe.rewrite import rewritten
from lora_ns.services.sweep.measured import RowLosses
from lora_ns.services.sweep.study import Design, SweepDir, Trial
from lora_ns.statistics import Comparison, adjust, compare, mean


@dataclass(frozen=True)
class Ranked:
    """A trial with its place in the table."""

    number: int
    values: Mapping[str, Any]
    state: str
    reason: str
    value: float | None
    """The metric; None if the trial was not finished."""
    loss: float | None
    """The last evaluation loss."""
    tokens: int
    seconds: float
    folder: str
    against_best: Comparison | None = None
    """The evaluation loss against that of the best trial, on the same rows, corrected for the number of trials."""


@dataclass(frozen=True)
class SweepResult:
    """The result of `lorans sweep`."""

    folder: str
    metric: str
    higher_is_better: bool
    trials: tuple[Ranked, ...]
    """The best first, then those that were stopped."""
    best: Ranked | None
    best_recipe: str | None
    """The recipe with the best values."""
    importances: Mapping[str, float]
    """The share of each key in the spread of the results."""
    tokens: int
    """Tokens that all trials trained on."""
    seconds: float
    """Time of all trials, added up."""
    plots: tuple[str, ...] = ()
    """The metric over the values of each key, as SVG."""
    notes: tuple[str, ...] = ()


def ranked(design: Design, trials: Sequence[Trial]) -> list[Ranked]:
    """Order trials by the metric, and compare each with the best."""
    found = [_ranked(design, trial) for trial in trials]
    finished = [one for one in found if one.value is not None]
    finished.sort(key=lambda one: ((-1 if design.higher_is_better else 1) * (one.value or 0.0), one.number))
    others = sorted((one for one in found if one.value is None), key=lambda one: (_ORDER[one.state], one.number))
    rows = {trial.number: trial.measured.row_losses for trial in trials}
    return [*_compared(finished, rows), *others]


_ORDER = {"finished": 0, "pruned": 1, "diverged": 2, "refused": 3, "failed": 4}


def _ranked(design: Design, trial: Trial) -> Ranked:
    one = trial.measured
    value = one.metrics.get(design.metric) if one.state == "finished" else None
    return Ranked(
        trial.number, trial.values, one.state, one.reason, value, one.loss, one.tokens, one.seconds, trial.folder
    )


def _compared(finished: Sequence[Ranked], rows: Mapping[int, RowLosses]) -> list[Ranked]:
    """Compare trials with the first of them, where both have losses of the same rows."""
    if not finished:
        return []
    best, *others = finished
    alike = [one for one in others if rows[best.number] and _weights(rows[one.number]) == _weights(rows[best.number])]
    found = adjust([paired(rows[best.number], rows[one.number]) for one in alike])
    by_number = {one.number: comparison for one, comparison in zip(alike, found, strict=True)}
    return [best, *(replace(one, against_best=by_number.get(one.number)) for one in others)]


def _weights(rows: RowLosses) -> list[int]:
    return [count for _, count in rows]


def paired(first: RowLosses, second: RowLosses) -> Comparison:
    """Compare two trials by the losses of the same rows."""
    weights = _weights(first)
    one, other = (mean([loss for loss, _ in rows], weights) for rows in (first, second))
    return compare(one, other, higher_is_better=False)


def best_recipe(loaded: LoadedRecipe, overrides: Sequence[str]) -> str | None:
    """The text of a recipe with overrides written into it, comments kept; None if that is not possible.

    The text is read again, and must be the same recipe as with the overrides.
    """
    wanted = load_recipe(loaded.path, overrides, loaded.text)
    values = {override_key(one): parse_override(one)[1] for one in overrides}
    values |= {key: str(path) for key, path in _moved_paths(loaded, values).items()}
    replaced = [key for group in ALTERNATIVES if not values.keys().isdisjoint(group) for key in group]
    text = rewritten(loaded.text, values, [key for key in replaced if key not in values])
    if text is None:
        return None
    try:
        again = load_recipe(loaded.path, (), text).recipe
    except LoransError:
        return None
    apart = {"dataset", "model"}  # their paths may be written in another way
    return text if again.model_dump(exclude=apart) == wanted.recipe.model_dump(exclude=apart) else None


def _moved_paths(loaded: LoadedRecipe, values: Mapping[str, Any]) -> dict[str, Path]:
    """Absolute paths for files that the recipe names relative to its folder, since the result is in another one."""
    recipe = loaded.recipe
    named = {
        "dataset.path": recipe.dataset.path,
        "dataset.eval_path": recipe.dataset.eval_path,
        "model.name_or_path": recipe.model.name_or_path,
    }
    return {
        key: (loaded.folder / value).absolute()
        for key, value in named.items()
        if isinstance(value, str) and key in loaded.lines and key not in values and (loaded.folder / value).exists()
    }


def write_result(folder: SweepDir, result: SweepResult) -> None:
    """Write the result. Raises `RunError` if the disk is full."""
    write_atomic(folder.result, strict_json(asdict(result), indent=2, default=str) + "\n")


def check_any(trials: Sequence[Ranked], folder: SweepDir) -> None:
    """Check that at least one trial was trained. Raises `RunError` with the reasons of the others."""
    if any(one.state in {"finished", "pruned"} for one in trials) or not trials:
        return
    reasons = list(dict.fromkeys(one.reason for one in trials))[:3]
    raise RunError(f"no trial of {folder.path} could be trained to the end: {'; '.join(reasons)}")
