"""`find-lr`: the learning rate of a recipe from short trainings, at a tenth of the tokens of a grid of twelve.

Candidates train one after the other on one base in memory, from the same initialisation and on the same rows in the
same order, each with a whole schedule, warm-up to zero, within a short horizon. The best part of the range goes on to a
horizon twice as long. Short trainings prefer higher rates than long ones, so the optimum is carried to the length of
the recipe by a power of the number of steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_ns.errors import InterruptedRunError, Problem, RecipeError
from lora_ns.files.disk import write_atomic
from lora_ns.files.temporary import temporary_folder
from lora_ns.parallel.stop import EndedEarly, StopSignal
from lora_ns.plan.rates import prior_rate
from lora_ns.recipe.load import LoadedRecipe, load_recipe
from lora_ns.recipe.rewrite import rewritten
from lora_ns.run.observer import Observer
from lora_ns.services.sweep.bench import Asked, Bench, Ready, check_sweepable
from lora_ns.services.sweep.search import FEWEST_STEPS, Candidate, Search, rounded
from lora_ns.statistics import Interval

_CHEAP = 1.2
"""Cost of a search, as a share of one training, that is a tenth of a grid of twelve."""

_ROWS = 256
"""Maximum number of evaluation rows, spread evenly over all of them."""


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
    with StopSignal().listening(), temporary_folder() as folder:
        bench = Bench(observer, use_cache)
        try:
            ready = bench.plan(loaded, folder)
            plan = ready.manifest.plan
            run_steps = plan.max_steps.value or 1
            prior = prior_rate(ready.manifest.recipe, ready.prepared.base.facts)
            search = Search(prior, run_steps, _Trainings(loaded, bench, ready, folder).train)
            log_rate, error = search.run()
        except EndedEarly as ended:
            problem = Problem("find-lr", "the search was stopped; nothing was kept", "repeat the command")
            raise InterruptedRunError(ended.number, problem) from None
    rate = rounded(math.exp(log_rate))
    half = 1.96 * error
    tokens = sum(one.tokens for one in search.tried)
    each = max(one.tokens / one.steps for one in search.tried)
    if writes:
        write_atomic(recipe, with_rate(loaded, rate))
    return FoundRate(
        rate=rate,
        interval=Interval(rounded(math.exp(log_rate - half)), rounded(math.exp(log_rate + half)), 0.95, "bootstrap"),
        prior=prior,
        current=plan.learning_rate.value,
        candidates=tuple(sorted(search.tried, key=lambda one: (one.steps, one.rate))),
        run_steps=run_steps,
        tokens=tokens,
        share=tokens / (each * run_steps),
        seconds=round(time.monotonic() - started, 1),
        written=str(recipe) if writes else None,
        notes=(*search.notes, *_cost_notes(tokens / (each * run_steps), run_steps)),
    )


def _cost_notes(share: float, run_steps: int) -> list[str]:
    if share <= _CHEAP:
        return []
    return [f"{run_steps:,} steps are too few for a cheap search: each candidate needs {FEWEST_STEPS}"]


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


@dataclass(frozen=True)
class _Trainings:
    """The short trainings of a search."""

    loaded: LoadedRecipe
    bench: Bench
    ready: Ready
    folder: Path

    def train(self, rate: float, steps: int) -> Candidate:
        """Train a candidate. Its warm-up has the same share of the steps as that of the recipe."""
        observer, plan = self.bench.observer, self.ready.manifest.plan
        observer.stage(f"a learning rate of {rate:g} for {steps} steps")
        warmup = round((plan.warmup_steps.value or 0) / (plan.max_steps.value or 1) * steps)
        overrides = [
            *self.loaded.overrides,
            f"training.learning_rate={rate!r}",
            f"training.max_steps={steps}",
            f"training.warmup_steps={min(steps - 1, warmup)}",
        ]
        own = load_recipe(self.loaded.path, overrides, self.loaded.text)
        found = self.bench.train(own, self.folder / "trial", Asked(by_rows=True, most_rows=_ROWS))
        loss = found.loss if found.state == "finished" else None
        observer.stage(f"  {'diverged: ' + found.reason if loss is None else f'loss {loss:.4f}'}")
        return Candidate(rate, steps, loss, found.tokens, found.row_losses if loss is not None else ())
