"""The learning rate of each step on both sides, by the schedules of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lora_ns.services.import_check.reader import Rate


@dataclass(frozen=True)
class RateReport:
    """How far the learning rates of both sides are apart."""

    steps: int
    """Steps that were compared: those that both sides have."""
    largest: float
    """Largest difference."""
    at: int
    """Step of the largest difference, from 1."""
    theirs: float
    ours: float
    """The rates there."""
    note: str = ""
    """Why other steps were taken than those of the run."""

    @property
    def is_equal(self) -> bool:
        """True if no rate differs by more than rounding."""
        return self.largest <= _ROUNDING * max(self.theirs, self.ours)


_ROUNDING = 1e-9


NOMINAL_STEPS = 1000
"""Steps of a run whose own are not known."""


_MOST_STEPS = 20_000
"""Steps to evaluate; of longer runs, evenly spaced ones."""


def compare_rates(theirs: Rate, ours: Rate) -> RateReport | str:
    """Evaluate both schedules at each step; returns a reason if one of them cannot be."""
    if theirs.peak is None or ours.peak is None:
        return "the learning rate is not stated"
    note = ""
    if theirs.steps is None or ours.steps is None:
        note = f"the steps are not known, so those of a run of {NOMINAL_STEPS:,}"
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
    """The same for a run of `NOMINAL_STEPS`; an unknown warm-up is the same on both sides."""
    return Rate(rate.peak, rate.shape, 0 if rate.warmup is None else rate.warmup, NOMINAL_STEPS)


def _curve(rate: Rate) -> Callable[[int], float]:
    """Return the learning rate by step, from 0."""
    import torch
    import transformers

    peak = float(rate.peak or 0.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = transformers.get_scheduler(rate.shape, optimizer, rate.warmup, rate.steps)
    factor = schedule.lr_lambdas[0]
    return lambda step: peak * float(factor(step))
