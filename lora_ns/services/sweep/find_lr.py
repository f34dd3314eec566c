"""`find-lr`: the learning rate of a recipe from short trainings, at a tenth of the tokens of a grid of twelve.

Candidates train one after the other on one base in memory, from the same initialisation and on the same rows in the
same order, each with a whole schedule, warm-up to zero, within a short horizon. The best part of the range goes on to a
horizon twice as long. Short trainings prefer higher rates than long ones, so the optimum is carried to the length of
the recipe by a power of the number of steps.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lora_ns.errors import Problem, RecipeError, RunError
from lora_ns.files.disk import write_atomic
from lora_ns.files.temporary import temporary_folder
from lora_ns.parallel.stop import StopSignal
from lora_ns.plan.rates import prior_rate
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.recipe.rewrite import rewritten
from lora_ns.run.observer import Observer
from lora_ns.services.sweep.bench import Asked, Bench, Ready, check_sweepable
from lora_ns.services.sweep.measured import RowLosses
from lora_ns.statistics import Interval

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

_ROWS, _RESAMPLES = 256, 400


@dataclass(frozen=True)
class Candidate:
    """A learning rate that was tried."""

    rate: float
    steps: int
    loss: float | None
    """The loss on the held-out rows; None if the training diverged."""
    tokens: int
    rows: RowLosses = field(default=(), repr=False)


@dataclass(frozen=True)
class FoundRate:
    """The result of `lorans find-lr`."""

    rate: float
    interval: Interval
    """Interval of the best rate, from the spread of the held-out rows and of the power of the steps."""
    prior: float
    """The rate that the width of the base suggests, at which the search began."""
    current: float
    """The rate of the recipe."""
    candidates: tuple[Candidate, ...]
    run_steps: int
    tokens: int
    share: float
    """Tokens of the search, as a share of the tokens of the recipe's training."""
    seconds: float
    written: str | None = None
    """The recipe, if the rate was written into it."""
    notes: tuple[str, ...] = ()


def find_lr(
    recipe: Path, overrides: Sequence[str], observer: Observer, writes: bool = False, use_cache: bool = True
) -> FoundRate:
    """Search the learning rate of a recipe.

    Raises:
        LoransError: see `errors`; if every candidate diverges, the search is a `RunError`.
    """
    loaded = load_recipe(recipe, overrides)
    check_sweepable(loaded, "find-lr")
    if writes:
        with_rate(loaded, 1.0)
    started = time.monotonic()
    stopped = "repeat the command; the recipe is as it was"
    with StopSignal().listening(lambda: stopped), temporary_folder() as folder:
        bench = Bench(observer, use_cache)
        ready = bench.plan(loaded, folder)
        search = _Search(loaded, bench, ready, folder, observer)
        log_rate, error = search.run()
    rate, plan = _rounded(math.exp(log_rate)), ready.manifest.plan
    half = 1.96 * error
    tokens = sum(one.tokens for one in search.tried)
    run_steps = plan.max_steps.value or 1
    each = max(one.tokens / one.steps for one in search.tried)
    if writes:
        write_atomic(recipe, with_rate(loaded, rate))
    return FoundRate(
        rate=rate,
        interval=Interval(_rounded(math.exp(log_rate - half)), _rounded(math.exp(log_rate + half)), 0.95, "bootstrap"),
        prior=search.prior,
        current=plan.learning_rate.value,
        candidates=tuple(sorted(search.tried, key=lambda one: (one.steps, one.rate))),
        run_steps=run_steps,
        tokens=tokens,
        share=tokens / (each * run_steps),
        seconds=round(time.monotonic() - started, 1),
        written=str(recipe) if writes else None,
        notes=tuple(search.notes),
    )


def with_rate(loaded: LoadedRecipe, rate: float) -> str:
    """The text of a recipe with another learning rate. Raises `RecipeError` if it cannot be replaced in its line."""
    text = rewritten(loaded.text, {"training.learning_rate": rate})
    if text is None:
        what = "is written in a form that cannot be replaced"
        where = loaded.where("training.learning_rate")
        raise RecipeError(
            Problem(where, what, "write `learning_rate = 1e-4` in a line of its own", key="training.learning_rate")
        )
    return text


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


class _Search:
    """The candidates of a search, and the fit of their losses."""

    def __init__(self, loaded: LoadedRecipe, bench: Bench, ready: Ready, folder: Path, observer: Observer) -> None:
        plan = ready.manifest.plan
        self._loaded, self._bench, self._folder, self._observer = loaded, bench, folder, observer
        self._run_steps = plan.max_steps.value or 1
        self._warmup = (plan.warmup_steps.value or 0) / self._run_steps
        self.prior = prior_rate(ready.manifest.recipe, ready.prepared.base.facts)
        self.tried: list[Candidate] = []
        self.notes: list[str] = []
        self.short = min(self._run_steps, max(FEWEST_STEPS, round(self._run_steps / SHORT)))
        self.long = min(self._run_steps, max(self.short, round(self._run_steps / LONG)))

    def run(self) -> tuple[float, float]:
        """Return the logarithm of the best rate for the whole recipe, and its standard error."""
        for power in (0, -1, 1, -2, 2):
            self._try(self.prior * _WIDE**power, self.short)
        self._widen()
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

    def _widen(self) -> None:
        """Go on beyond the ends of the range while the best candidate is at one of them."""
        while len(self.tried) < _MOST:
            rates = sorted(one.rate for one in self.tried)
            best = self._best(self.short).rate
            if best == rates[0]:
                self._try(best / _WIDE, self.short)
            elif best == rates[-1]:
                self._try(best * _WIDE, self.short)
            else:
                return
        self.notes.append(
            "the best candidate is at the end of the range: start nearer to it with `training.learning_rate`"
        )

    def _try(self, rate: float, steps: int) -> None:
        rate = _rounded(rate)
        if any(one.rate == rate and one.steps == steps for one in self.tried):
            return
        self._observer.stage(f"candidate {len(self.tried) + 1}: a learning rate of {rate:g} for {steps} steps")
        overrides = [
            *self._loaded.overrides,
            f"training.learning_rate={rate!r}",
            f"training.max_steps={steps}",
            f"training.warmup_steps={min(steps - 1, round(self._warmup * steps))}",
        ]
        own = load_recipe(self._loaded.path, overrides, self._loaded.text)
        found = self._bench.train(own, self._folder / "trial", Asked(by_rows=True, most_rows=_ROWS))
        loss = found.loss if found.state == "finished" and math.isfinite(found.loss or math.nan) else None
        self.tried.append(Candidate(rate, steps, loss, found.tokens, found.row_losses if loss is not None else ()))
        self._observer.stage(f"  {'diverged: ' + found.reason if loss is None else f'loss {loss:.4f}'}")

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
        drawn = []
        for _ in range(_RESAMPLES):
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
