"""Plots of a sweep: the metric over the values of each key."""

from __future__ import annotations

import re
from pathlib import Path

from lora_ns.recipe.space import Range, Space
from lora_ns.report import plots
from lora_ns.services.sweep.result import Ranked, SweepResult

_FAR = 10
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""


def write_plots(result: SweepResult, space: Space, folder: Path) -> tuple[str, ...]:
    """Write an SVG for each key, and return their paths. Raises `RunError`."""
    if result.best is None:
        return ()
    found = []
    for key in space.keys:
        file = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', key.name)}.svg"
        plots.write(_plot(result, key.name, isinstance(key.values, Range) and key.values.kind == "log"), file)
        found.append(str(file))
    return tuple(found)


def _plot(result: SweepResult, key: str, is_log: bool) -> plots.Plot:
    assert result.best is not None
    values = [one.values.get(key) for one in result.trials]
    names = list(dict.fromkeys(str(value) for value in values))
    numbers = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    is_numeric = len(numbers) == len(values)
    places = numbers if is_numeric else [float(names.index(str(value)) + 1) for value in values]
    label = key if is_numeric else f"{key}: {', '.join(f'{at} = {name}' for at, name in enumerate(names, 1))}"
    at = {one.number: place for one, place in zip(result.trials, places, strict=True)}
    finished = [one for one in result.trials if one.value is not None]
    stopped = [one for one in result.trials if one.state == "pruned" and one.loss is not None]
    is_loss = result.metric == "eval_loss"
    ends = [_ends(result.best, one) if is_loss else (None, None) for one in finished]
    layers: list[plots.Layer] = [
        plots.Points(
            [at[one.number] for one in finished],
            [one.value or 0.0 for one in finished],
            "finished; difference from the best, 95 %",
            "accent",
            [low for low, _ in ends],
            [high for _, high in ends],
        )
    ]
    if stopped and is_loss:
        layers.append(
            plots.Points(
                [at[one.number] for one in stopped], [one.loss or 0.0 for one in stopped], "stopped early", "muted"
            )
        )
    is_wide = is_numeric and min(numbers) > 0 and max(numbers) >= _FAR * min(numbers)
    return plots.Plot(
        key="sweep",
        title=f"{result.metric} by {key}",
        alternative=_alternative(result.best, key, result.metric, len(finished), len(result.trials)),
        layers=layers,
        x_label=label,
        y_label=result.metric,
        is_log_x=is_log or is_wide,
    )


def _ends(best: Ranked, one: Ranked) -> tuple[float | None, float | None]:
    if one.against_best is None or best.value is None:
        return None, None
    return best.value + one.against_best.interval.low, best.value + one.against_best.interval.high


def _alternative(best: Ranked, key: str, metric: str, finished: int, trials: int) -> str:
    stopped = f", {trials - finished} others stopped early" if trials > finished else ""
    return f"{finished} trials finished{stopped}; the best has {metric} {best.value:.4g} at {best.values.get(key)}"
