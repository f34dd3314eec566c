"""The search for a learning rate: which candidates are tried, and what their losses say about a longer training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lora_ns.errors import Problem, RunError
from lora_ns.services.sweep.measured import RowLosses

SHORT, LONG = 16, 8
"""The horizons: a sixteenth and an eighth of the steps of the recipe."""

FEWEST_STEPS = 8
"""Steps of the shortest horizon; with fewer, the optimizer has no estimate of the gradients' variance."""

POWER, POWER_ERROR = 0.32, 0.15
"""Power of the steps by which the best rate falls with the length of a training, and its standard error.

The power is that of Bjorck et al. (2024, arXiv 2409.19913), found in pre-training. docs/benchmarks.md has what was
measured with adapters here.
"""

_WIDE, _FINE = 2.0, math.sqrt(2.0)
"""Factors between neighbouring candidates, at first and around the best."""

_MOST = 9
"""Maximum number of candidates at the short horizon."""

_RESAMPLES = 400


@dataclass(frozen=True)
class Candidate:
    """A learning rate that was tried."""

    rate: float
    steps: int
    loss: float | None
    """The loss on the held-out rows; None if the training diverged."""
    tokens: int
    rows: RowLosses = field(default=(), repr=False)


Measure = Callable[[float, int], Candidate]
"""Trains a candidate with a learning rate for a number of steps."""


def rounded(rate: float) -> float:
    """Return a rate to two digits."""
    return float(f"{rate:.2g}")


class Search:
    """The candidates of a search, and the fit of their losses."""

    def __init__(self, prior: float, run_steps: int, measure: Measure) -> None:
        self._prior, self._run_steps, self._measure = prior, run_steps, measure
        self.tried: list[Candidate] = []
        self.notes: list[str] = []
        self.short = min(self._run_steps, max(FEWEST_STEPS, round(self._run_steps / SHORT)))
        self.long = min(self._run_steps, max(self.short, round(self._run_steps / LONG)))

    def run(self) -> tuple[float, float]:
        """Return the logarithm of the best rate for the whole recipe, and its standard error.

        Raises:
            RunError: if every candidate diverges.
        """
        for power in (0, -1, 1, -2, 2):
            self._try(self._prior * _WIDE**power, self.short)
        while (beyond := self._beyond()) and len(self.tried) < _MOST:
            self._try(beyond, self.short)
        if self._beyond():
            self.notes.append("the best candidate is the last in its direction, so a better rate may be further out")
        best = self._best(self.short)
        for factor in (1 / _FINE, _FINE):
            self._try(best.rate * factor, self.short)
        short = self._optimum(self.short)
        if self.long == self.short:
            return self._carried(*short, self.short)
        centre = math.exp(short[0]) * (self.short / self.long) ** POWER
        for factor in (1.0, 1 / _FINE, _FINE):
            self._try(centre * factor, self.long)
        ends = sorted(one.rate for one in self.tried if one.steps == self.long)
        best = self._best(self.long)
        if best.rate in (ends[0], ends[-1]):
            self._try(best.rate * (_FINE if best.rate == ends[-1] else 1 / _FINE), self.long)
        return _joined(self._carried(*short, self.short), self._carried(*self._optimum(self.long), self.long))

    def _beyond(self) -> float | None:
        """The next rate beyond the best candidate of the short horizon, if that is at an end of the range."""
        rates = sorted(one.rate for one in self.tried)
        if all(one.loss is None for one in self.tried):
            return rates[0] / _WIDE
        best = self._best(self.short).rate
        return best / _WIDE if best == rates[0] else best * _WIDE if best == rates[-1] else None

    def _try(self, rate: float, steps: int) -> None:
        rate = rounded(rate)
        if any(one.rate == rate and one.steps == steps for one in self.tried):
            return
        self.tried.append(self._measure(rate, steps))

    def _best(self, steps: int) -> Candidate:
        known = [one for one in self.tried if one.steps == steps and one.loss is not None]
        if not known:
            what = f"every learning rate from {min(one.rate for one in self.tried):g} up diverges"
            raise RunError(Problem("find-lr", what, "inspect the rows with `lorans validate --data`"))
        return min(known, key=lambda one: one.loss or 0.0)

    def _optimum(self, steps: int) -> tuple[float, float]:
        """Return the logarithm of the best rate at a horizon, and its standard error over resampled rows."""
        near = self._near(steps)
        found = _vertex(near, [one.loss or 0.0 for one in near])
        draw = random.Random(0)
        count = len(near[0].rows)
        drawn = [found, found]
        for _ in range(_RESAMPLES if count else 0):
            places = draw.choices(range(count), k=count)
            drawn.append(_vertex(near, [_mean(one.rows, places) for one in near]))
        middle = sum(drawn) / len(drawn)
        spread = math.sqrt(sum((one - middle) ** 2 for one in drawn) / (len(drawn) - 1))
        return found, math.hypot(spread, math.log(_FINE) / 2)  # a parabola is only nearly the shape

    def _near(self, steps: int) -> list[Candidate]:
        """The best candidate of a horizon with up to two neighbours on each side, in the order of their rates."""
        known = sorted(
            (one for one in self.tried if one.steps == steps and one.loss is not None), key=lambda one: one.rate
        )
        place = known.index(self._best(steps))
        return known[max(0, place - 2) : place + 3]

    def _carried(self, log_rate: float, error: float, steps: int) -> tuple[float, float]:
        """The optimum of a horizon at the length of the recipe."""
        longer = math.log(self._run_steps / steps)
        return log_rate - POWER * longer, math.hypot(error, POWER_ERROR * longer)


def _joined(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The mean of two estimates by their precision; their errors are not independent, so the smaller one is kept."""
    weights = [1 / one[1] ** 2, 1 / other[1] ** 2]
    return (weights[0] * one[0] + weights[1] * other[0]) / sum(weights), min(one[1], other[1])


def _mean(rows: RowLosses, places: Sequence[int]) -> float:
    weight = sum(rows[place][1] for place in places)
    return sum(rows[place][0] * rows[place][1] for place in places) / max(1, weight)


def _vertex(candidates: Sequence[Candidate], losses: Sequence[float]) -> float:
    """The logarithm of the rate at the lowest point of a parabola through the best candidate and its neighbours.

    It is the best candidate itself if the parabola has no lowest point, and never beyond its neighbours.
    """
    logs = [math.log(one.rate) for one in candidates]
    place = min(range(len(losses)), key=lambda at: losses[at])
    if not 0 < place < len(logs) - 1:
        return logs[place]
    (x0, x1, x2), (y0, y1, y2) = logs[place - 1 : place + 2], losses[place - 1 : place + 2]
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:
        return x1
    return min(x2, max(x0, (x0 + x1) / 2 - left / (2 * curvature)))
