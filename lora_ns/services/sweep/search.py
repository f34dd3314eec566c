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

PRIOR_ERROR = math.log(3)
"""Standard error of the logarithm of the prior: two thirds of the best rates are within a factor of 3."""

_WIDE, _FINE = 2.0, math.sqrt(2.0)
"""Factors between neighbouring candidates, at first and around the best."""

_MOST = 9
"""Maximum number of candidates at the short horizon."""

_RESAMPLES = 400

_WINDOW = 4.2
"""Factor on either side of the best candidate within which losses are taken for a parabola of the logarithm."""


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
        if self.long > self.short:
            centre = self._best(self.short).rate * (self.short / self.long) ** POWER
            for factor in (1.0, 1 / _WIDE, _WIDE):
                self._try(centre * factor, self.long)
            rate = self._best(self.long).rate
            self._try(rate * (_FINE if rate <= centre else 1 / _FINE), self.long)
        return self._estimate()

    def _estimate(self) -> tuple[float, float]:
        """The optima of the horizons, carried to the length of the recipe, and the prior, weighed by precision."""
        horizons = sorted({self.short, self.long})
        fits = [Fit.of(self._near(steps)) for steps in horizons]
        freedom = sum(max(0, len(fit.logs) - 3) for fit in fits)
        noise = math.sqrt(sum(fit.squares for fit in fits) / freedom) if freedom else 0.0
        found = []
        for steps, fit in zip(horizons, fits, strict=True):
            longer = math.log(self._run_steps / steps)
            found.append((fit.vertex() - POWER * longer, fit.error(noise), longer))
        log_rate, error = _weighed([(one, spread) for one, spread, _ in found])
        carried = math.hypot(error, POWER_ERROR * found[-1][2])
        return _weighed([(log_rate, carried), (math.log(self._prior), PRIOR_ERROR)])

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

    def _near(self, steps: int) -> list[Candidate]:
        """The candidates of a horizon around its best one, in the order of their rates."""
        best = self._best(steps).rate
        known = [one for one in self.tried if one.steps == steps and one.loss is not None]
        return sorted((one for one in known if best / _WINDOW <= one.rate <= best * _WINDOW), key=lambda one: one.rate)


@dataclass(frozen=True)
class Fit:
    """A parabola through the logarithms of the losses over the logarithms of the rates of one horizon."""

    logs: tuple[float, ...]
    losses: tuple[float, ...]
    rows: tuple[RowLosses, ...]

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Fit:
        """The fit of candidates in the order of their rates."""
        return cls(
            tuple(math.log(one.rate) for one in candidates),
            tuple(one.loss or 0.0 for one in candidates),
            tuple(one.rows for one in candidates),
        )

    @property
    def squares(self) -> float:
        """The sum of the squares of what the parabola leaves."""
        if len(self.logs) < 4:
            return 0.0
        curve = self._curve(self.losses)
        return sum((y - _at(curve, x)) ** 2 for x, y in zip(self.logs, map(_log, self.losses), strict=True))

    def vertex(self, losses: Sequence[float] = (), noise: Sequence[float] = ()) -> float:
        """The logarithm of the best rate: the lowest point of the parabola, within the range of the candidates.

        It is the best candidate if there are too few, or if the parabola has no lowest point.
        """
        known = losses or self.losses
        best = self.logs[min(range(len(known)), key=lambda at: known[at])]
        if len(self.logs) < 3:
            return best
        square, slope, _ = self._curve(known, noise)
        return min(self.logs[-1], max(self.logs[0], -slope / (2 * square))) if square > 0 else best

    def error(self, noise: float) -> float:
        """The standard error of the vertex, over resampled rows and the noise of training, in the log of the loss."""
        draw, drawn = random.Random(0), []
        count = min((len(rows) for rows in self.rows), default=0)
        for _ in range(_RESAMPLES):
            places = draw.choices(range(count), k=count) if count else []
            losses = [_mean(rows, places) for rows in self.rows] if count else self.losses
            drawn.append(self.vertex(losses, [draw.gauss(0.0, noise) for _ in self.logs]))
        middle = sum(drawn) / len(drawn)
        spread = math.sqrt(sum((one - middle) ** 2 for one in drawn) / (len(drawn) - 1))
        return math.hypot(spread, math.log(_FINE) / 2)  # a parabola is only nearly the shape

    def _curve(self, losses: Sequence[float], noise: Sequence[float] = ()) -> tuple[float, float, float]:
        import numpy as np

        found = np.polyfit(self.logs, np.add(list(map(_log, losses)), noise or 0.0), 2)
        return float(found[0]), float(found[1]), float(found[2])


def _at(curve: tuple[float, float, float], x: float) -> float:
    return curve[0] * x * x + curve[1] * x + curve[2]


def _log(loss: float) -> float:
    return math.log(max(loss, _LEAST))


_LEAST = 1e-6
"""Loss below which nothing more is learned."""


def _weighed(estimates: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The mean of independent estimates by their precision, and its standard error."""
    weights = [1 / error**2 for _, error in estimates]
    return sum(w * value for w, (value, _) in zip(weights, estimates, strict=True)) / sum(weights), sum(weights) ** -0.5


def _mean(rows: RowLosses, places: Sequence[int]) -> float:
    weight = sum(rows[place][1] for place in places)
    return sum(rows[place][0] * rows[place][1] for place in places) / max(1, weight)
