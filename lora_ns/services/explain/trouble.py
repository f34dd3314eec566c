"""What went wrong in a run, and where it began, from its metrics alone."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev
from typing import Any, Literal

from lora_ns.objectives.baselines import LOWER_IS_BETTER
from lora_ns.run.manifest import Manifest

FLAT = 0.02
"""Relative fall of the loss below which it counts as flat."""

RISEN = 0.5
"""Share of the fall of the loss that has to be lost again before it counts as diverged."""

_WINDOWS = 20
"""Parts of a run whose median losses are compared."""

_DEVIATIONS = 6.0
"""Standard errors of a part by which the loss has to rise: the lowest of twenty parts is low by chance, too."""

_FALLEN = 3.0
"""Standard errors by which the loss has to fall."""

Kind = Literal["broken", "diverged", "flat"]


@dataclass(frozen=True)
class Trouble:
    """What went wrong."""

    kind: Kind
    """`broken`: the loss or its gradient is not finite; `diverged`: the loss rose; `flat`: nothing was learned."""
    step: int
    """The last step that was still in order."""
    what: str
    """A sentence about it, with figures."""
    seen: int
    """The step at which it was seen."""


def find_trouble(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> Trouble | None:
    """Find what went wrong in a run; None if its loss fell and stayed low.

    Args:
        manifest: the manifest of the run.
        rows: rows of its `metrics.jsonl`.
    """
    if broken := _broken(rows) or _ended(manifest, rows):
        return _after_rising(broken, rows)
    return _diverged(rows) or _unbeaten(manifest) or _flat(rows)


def _broken(rows: Sequence[Mapping[str, Any]]) -> Trouble | None:
    for row in rows:
        name = next((key for key in ("loss", "eval_loss", "grad_norm") if not _is_finite(row.get(key, 0.0))), None)
        if name is not None:
            step = int(row["step"])
            return Trouble("broken", max(0, step - 1), f"at step {step:,}, `{name}` is {row[name]}", step)
    return None


def _ended(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> Trouble | None:
    """A run that ended because a loss or a gradient was not finite, before it was logged."""
    if manifest.status != "failed" or not _NOT_FINITE.search(manifest.error or ""):
        return None
    step = max((int(row["step"]) for row in rows), default=0)
    return Trouble("broken", step, str(manifest.error).splitlines()[0], step)


def _after_rising(broken: Trouble, rows: Sequence[Mapping[str, Any]]) -> Trouble:
    """The trouble of a run that broke, from where its loss rose before that, if it did."""
    before = _diverged([row for row in rows if int(row["step"]) <= broken.step])
    return broken if before is None else replace(broken, step=before.step)


_NOT_FINITE = re.compile(r"\b(nan|inf)\b")


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _losses(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    found = [(int(row["step"]), row.get(name)) for row in rows]
    return [(step, float(value)) for step, value in found if isinstance(value, (int, float)) and math.isfinite(value)]


def _diverged(rows: Sequence[Mapping[str, Any]]) -> Trouble | None:
    """A loss that rises by more than its noise, above its start or by half of what it had fallen."""
    losses = _losses(rows, "loss")
    if len(losses) < _LEAST:
        return None
    width = max(2, len(losses) // _WINDOWS)
    parts = [losses[start : start + width] for start in range(0, len(losses) - width + 1, width)]
    levels = [median(loss for _, loss in part) for part in parts]
    low = min(range(len(levels)), key=levels.__getitem__)
    rise, fall = levels[-1] - levels[low], losses[0][1] - levels[low]
    if rise <= max(FLAT * abs(levels[low]), RISEN * fall) or not _is_beyond_noise(
        losses, levels[low], levels[-1], width
    ):
        return None
    step = parts[low][-1][0] if low else 0
    what = f"the loss was {levels[low]:.3g} until step {step:,} and ended at {levels[-1]:.3g}"
    return Trouble("diverged", step, what, step)


def _is_beyond_noise(losses: Sequence[tuple[int, float]], low: float, end: float, width: int) -> bool:
    """True if a level of so many losses lies above another one by more than noise, as a difference or as a ratio.

    A loss that grows by orders of magnitude has differences as large as its rise.
    """
    values, bound = [loss for _, loss in losses], _DEVIATIONS / math.sqrt(width)
    if end - low > bound * _noise(values):
        return True
    return min(low, *values) > 0 and math.log(end / low) > bound * _noise([math.log(one) for one in values])


_LEAST = 6
"""Logged losses from which a course can be read."""


def _noise(losses: Sequence[float]) -> float:
    """Standard deviation of the loss around its course, from the differences of neighbours."""
    changes = [after - before for before, after in itertools.pairwise(losses)]
    spread = median(abs(change) for change in changes) / _MEDIAN_OF_NORMAL / math.sqrt(2)
    return spread or (stdev(changes) / math.sqrt(2) if len(changes) > 1 else 0.0)


_MEDIAN_OF_NORMAL = 0.6745
"""Median of the absolute value of a standard normal variable."""


def _unbeaten(manifest: Manifest) -> Trouble | None:
    """A classifier that is no better than a constant answer, by more than chance, in every metric that can tell."""
    metrics = manifest.metrics
    gains = {
        name: (metrics[f"eval_{name}"] - reached) * (-1 if name in LOWER_IS_BETTER else 1)
        for key, reached in metrics.items()
        if key.startswith("baseline/eval_") and f"eval_{(name := key.removeprefix('baseline/eval_'))}" in metrics
    }
    if "accuracy" in gains:  # the others are functions of the same answers, and chance is known for this one
        gains = {"accuracy": gains["accuracy"]}
    if not gains or any(gain > _by_chance(manifest, name) for name, gain in gains.items()):
        return None
    name = next(iter(gains))
    figures = f"{name} {metrics[f'eval_{name}']:.3g}, that of a constant answer {metrics[f'baseline/eval_{name}']:.3g}"
    return Trouble("flat", 0, f"the model is not better than a constant answer by more than chance: {figures}", 0)


def _by_chance(manifest: Manifest, name: str) -> float:
    """What a constant answer may gain by chance: two standard errors of its accuracy; 0 for other metrics."""
    rows = manifest.data.eval.rows if manifest.data.eval else 0
    share = manifest.metrics[f"baseline/eval_{name}"]
    return 2 * math.sqrt(share * (1 - share) / rows) if name == "accuracy" and rows else 0.0


def _flat(rows: Sequence[Mapping[str, Any]]) -> Trouble | None:
    evaluations = [loss for _, loss in _losses(rows, "eval_loss")]
    if len(evaluations) > 1:
        first, best = evaluations[0], min(evaluations[1:])
        if best <= first - FLAT * abs(first):
            return None
        return Trouble("flat", 0, f"the evaluation loss began at {first:.4g} and was never below {best:.4g}", 0)
    losses = [loss for _, loss in _losses(rows, "loss")]
    part = len(losses) // 4
    if not part:
        return None
    first, last = fmean(losses[:part]), fmean(losses[-part:])
    by_chance = _FALLEN * _noise(losses) * math.sqrt(2 / part)
    if last <= first - max(FLAT * abs(first), by_chance):
        return None
    return Trouble("flat", 0, f"the loss is {first:.4g} in the first quarter of the run and {last:.4g} in the last", 0)
