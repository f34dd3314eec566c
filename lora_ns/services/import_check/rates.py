"""Learning rate of each step on both sides, from the schedules of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from lora_ns.services.import_check.reader import Rate


@dataclass(frozen=True)
class RateReport:
    """Largest difference between the learning rates of both sides."""

    steps: int
    """Number of compared steps: those that both sides have."""
    largest: float
    """Absolute difference."""
    at: int
    """Step of the largest difference, from 1."""
    theirs: float
    ours: float
    """Learning rate of the recipe at this step; `theirs` is that of the other tool."""
    note: str = ""
    """Remark that the number of steps is assumed; empty if it is known."""

    @property
    def is_equal(self) -> bool:
        """True if the rates differ by rounding at most."""
        return self.largest <= _ROUNDING * max(self.theirs, self.ours)


_ROUNDING = 1e-9


NOMINAL_STEPS = 1000
"""Assumed number of steps of a run whose length is unknown."""


_MOST_STEPS = 20_000
"""Maximum number of steps to evaluate; longer runs are sampled evenly."""


def compare_rates(theirs: Rate, ours: Rate) -> RateReport | str:
    """Compare both schedules at each step, or return the reason why this is not possible."""
    if theirs.peak is None or ours.peak is None:
        return "the learning rate is not set"
    note = ""
    if theirs.steps is None or ours.steps is None:
        note = f"the number of steps is unknown; {NOMINAL_STEPS:,} assumed"
        theirs, ours = _nominal(theirs), _nominal(ours)
    try:
        their_rate, our_rate = _curve(theirs), _curve(ours)
    except (ValueError, KeyError, TypeError):
        return f"transformers has no schedule `{theirs.shape}`"
    common = min(theirs.steps or 1, ours.steps or 1)
    stride = -(-common // _MOST_STEPS)
    at = max(range(0, common, stride), key=lambda step: abs(their_rate(step) - our_rate(step)))
    there, here = their_rate(at), our_rate(at)
    return RateReport(common, abs(there - here), at + 1, there, here, note)


def _nominal(rate: Rate) -> Rate:
    """Return the schedule of a run of `NOMINAL_STEPS`; an unknown warm-up becomes 0 steps."""
    return replace(rate, warmup=0 if rate.warmup is None else rate.warmup, steps=NOMINAL_STEPS)


def _curve(rate: Rate) -> Callable[[int], float]:
    """Return a function from the step, counted from 0, to the learning rate."""
    import torch
    import transformers

    peak = float(rate.peak or 0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    settings = json.loads(rate.settings) if isinstance(rate.settings, str) else rate.settings
    schedule = transformers.get_scheduler(rate.shape, optimizer, rate.warmup, rate.steps, dict(settings or {}))
    factor = schedule.lr_lambdas[0]
    return lambda step: peak * float(factor(step))
