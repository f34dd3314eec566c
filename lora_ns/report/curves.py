"""The series of `metrics.jsonl`: read tolerantly, thinned without losing an extreme, and smoothed with their noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_ns.run.metrics import LAST_STEP, read_metrics

NO_CURVES = frozenset({"step", "epoch", "total_flos"})
"""Numbers of logged rows that are no curves."""


MOST_NAMES = 500
"""Number of series that are kept; metrics named after data could be any number."""


@dataclass(frozen=True)
class Series:
    """The values of one metric, by step."""

    steps: Sequence[int] = ()
    """Strictly increasing."""
    values: Sequence[float] = ()
    """One value for each step; NaN and infinity if they were logged."""

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float:
        """The last value; NaN if there is none."""
        return self.values[-1] if len(self.values) else math.nan

    @property
    def finite(self) -> Series:
        """The series without NaN and infinity."""
        if all(map(math.isfinite, self.values)):
            return self
        kept = [(step, value) for step, value in zip(self.steps, self.values, strict=True) if math.isfinite(value)]
        return Series([step for step, _ in kept], [value for _, value in kept])

    def part(self, begin: float, end: float) -> Sequence[float]:
        """The finite values between two shares of the series: `part(0.75, 1)` is the last quarter, at least one."""
        values = self.finite.values
        if not values:
            return []
        first = min(int(len(values) * begin), len(values) - 1)
        return values[first : max(first + 1, round(len(values) * end))]

    def as_table(self) -> dict[str, list[Any]]:
        """Return the series as JSON values: NaN and infinity are null."""
        return {
            "steps": list(self.steps),
            "values": [value if math.isfinite(value) else None for value in self.values],
        }


@dataclass(frozen=True)
class Curves:
    """All series of a run."""

    series: Mapping[str, Series] = field(default_factory=dict)
    rows: int = 0
    """Number of rows read."""
    notes: tuple[str, ...] = ()
    """What could not be read."""

    def __getitem__(self, name: str) -> Series:
        return self.series.get(name, Series())

    def __contains__(self, name: object) -> bool:
        return name in self.series

    def ends(self, name: str) -> tuple[list[float | None], list[float | None]]:
        """Return the ends of the 95 % intervals of the finite values of a series; None where none was logged."""
        steps = self[name].finite.steps
        low, high = (dict(zip(one.steps, one.values, strict=True)) for one in map(self.__getitem__, _ends_of(name)))
        return [low.get(step) for step in steps], [high.get(step) for step in steps]

    @property
    def last_step(self) -> int:
        """The last step of any series, 0 if there is none."""
        return max((series.steps[-1] for series in self.series.values()), default=0)


def _ends_of(name: str) -> tuple[str, str]:
    return f"{name}_low", f"{name}_high"


def is_end_of_interval(name: str, known: Container[str]) -> bool:
    """Return whether a series is an end of the intervals of another one, which is no curve of its own."""
    return name.endswith(("_low", "_high")) and name.rpartition("_")[0] in known


def read_curves(file: Path, last: int = LAST_STEP) -> Curves:
    """Read the series of a metrics file up to a step; without a file there are none.

    A value that is logged again for a step replaces the earlier one, because a resumed run repeats steps.

    Raises:
        UsageError: if the file cannot be read, or is too large.
    """
    found = read_metrics(file, last)
    return Curves(curves_of(found.rows), len(found.rows), found.left_out(file.name))


def curves_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Return the series of logged rows, each row with a `step`. Values that are no numbers are left out."""
    steps: dict[str, list[int]] = {}
    values: dict[str, list[float]] = {}
    for row in rows:
        step = row["step"]
        for name, value in row.items():
            if (type(value) is not float and type(value) is not int) or name in NO_CURVES:
                continue
            if name not in steps:
                if len(steps) >= MOST_NAMES:
                    continue
                steps[name], values[name] = [], []
            steps[name].append(step)
            values[name].append(value)
    return {name: _in_order(steps[name], values[name]) for name in steps}


def _in_order(steps: list[int], values: list[float]) -> Series:
    if all(before < after for before, after in itertools.pairwise(steps)):
        return Series(steps, values)
    latest = dict(zip(steps, values, strict=True))
    return Series(sorted(latest), [latest[step] for step in sorted(latest)])


def thin(series: Series, most: int = 1_000) -> Series:
    """Return at most `most` points: the first and the last, and the lowest and the highest of each bucket between.

    Nothing that stands out is lost, and NaN and infinity count as what stands out most.
    """
    count = len(series)
    if count <= most:
        return series
    if most < 4:
        chosen = sorted({0, count - 1})[:most]
    else:
        chosen = sorted({0, count - 1, *_extremes(series.values, (most - 2) // 2)})
    return Series([series.steps[place] for place in chosen], [series.values[place] for place in chosen])


def _extremes(values: Sequence[float], buckets: int) -> Iterator[int]:
    """Yield the places of the lowest and the highest value of each bucket."""
    count = len(values)
    for number in range(buckets):
        places = range(1 + number * (count - 2) // buckets, 1 + (number + 1) * (count - 2) // buckets)
        if not places:
            continue
        inside = values[places.start : places.stop]
        odd = next((at for at, value in enumerate(inside) if not math.isfinite(value)), None)
        yield places.start + (inside.index(min(inside)) if odd is None else odd)
        yield places.start + inside.index(max(inside))


@dataclass(frozen=True)
class Noise:
    """A series as its moving mean, with the band that holds 95 % of its values."""

    steps: Sequence[int]
    middle: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def noise(series: Series, most: int = 200) -> Noise | None:
    """Smooth a series: the mean of a moving window of a tenth of its values, and 1.96 standard deviations around it.

    The deviations are those from the window's own line, so that a steep fall does not count as noise.

    Args:
        series: the series.
        most: number of points that are returned.

    Returns:
        None for fewer than eight finite values, which say nothing about noise.
    """
    finite = series.finite
    count = len(finite)
    if count < 8:
        return None
    import numpy as np

    half = max(2, count // 20)
    places = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    values = np.asarray(finite.values, dtype=np.float64)
    middle, spread = np.empty(len(places)), np.empty(len(places))
    for at, place in enumerate(places):
        begin, end = max(0, place - half), min(count, place + half + 1)
        around, offsets = values[begin:end], np.arange(begin, end) - place
        centred = offsets - offsets.mean()
        slope = float((centred * around).sum() / (centred * centred).sum())
        middle[at] = around.mean() - slope * offsets.mean()
        left = around - around.mean() - slope * centred
        spread[at] = 1.96 * math.sqrt(float((left * left).sum()) / max(1, len(around) - 2))
    steps = [finite.steps[place] for place in places]
    return Noise(steps, middle.tolist(), (middle - spread).tolist(), (middle + spread).tolist())


def speed(curves: Curves) -> Series:
    """Return the tokens per second between logged steps, without those of a resumed run's first row.

    `train_tokens_per_second`, as logged, is the mean since the start, which hides when a run became slow.
    """
    tokens, seconds = curves["num_input_tokens_seen"], curves["train_runtime"]
    at = dict(zip(tokens.steps, tokens.values, strict=True))
    steps, values = [], []
    before: tuple[float, float] | None = None
    for step, clock in zip(seconds.steps, seconds.values, strict=True):
        if step not in at:
            continue
        if before is not None and clock > before[1] and at[step] > before[0]:
            steps.append(step)
            values.append((at[step] - before[0]) / (clock - before[1]))
        before = at[step], clock
    return Series(steps, values)
