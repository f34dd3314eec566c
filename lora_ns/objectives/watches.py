"""Watches of a training: each reads the logged rows and warns once, with numbers, of a run that goes wrong.

An objective names its watches in `Objective.watches`. They are plain Python and know nothing of the trainer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any, ClassVar

WINDOW = 5
"""Logged rows that are averaged, at the start and now, before they are compared."""

CLEAR = 3.0
"""Standard errors by which two averages of training rows must differ."""

_HELD_OUT = "eval_"


class Watch(ABC):
    """An observer of logged rows that warns at most once."""

    reads: ClassVar[tuple[str, ...]]
    """Names of the metrics that it needs; other rows are ignored."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self._told = False

    def look(self, row: Mapping[str, Any]) -> str | None:
        """Take a logged row; return a warning with numbers the first time that one is due."""
        if self._told or not all(_is_number(row.get(name)) for name in self.reads):
            return None
        self._rows.append(tuple(float(row[name]) for name in self.reads))
        warning = self.judge()
        self._told = warning is not None
        return warning

    @abstractmethod
    def judge(self) -> str | None:
        """Judge the rows so far; return a warning, or None."""

    def column(self, name: str) -> list[float]:
        """The values of a metric so far, in their order."""
        place = self.reads.index(name)
        return [row[place] for row in self._rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


@dataclass(frozen=True)
class Ends:
    """A metric at the start and now: averages of the first and the last logged rows."""

    start: float
    now: float
    error: float
    """Standard error of their difference; 0 for averages over the same rows."""

    @property
    def rise(self) -> float:
        """The change since the start."""
        return self.now - self.start

    @property
    def is_clear(self) -> bool:
        """True if the change is larger than the spread of the rows explains."""
        return abs(self.rise) > CLEAR * self.error

    def __str__(self) -> str:
        return f"{self.start:.4g} to {self.now:.4g}"


def ends_of(values: Sequence[float]) -> Ends | None:
    """Average the first and the last `WINDOW` values; None while they overlap."""
    if len(values) < 2 * WINDOW:
        return None
    first, last = values[:WINDOW], values[-WINDOW:]
    return Ends(fmean(first), fmean(last), math.sqrt((variance(first) + variance(last)) / WINDOW))


LEAST_FALL, LEAST_SHARE = 0.5, 0.1
"""Fall of the log-probability of chosen answers that is reported: in nats, and as a share of its start."""


class LikelihoodDisplacement(Watch):
    """Margins that rise while chosen answers become less likely too (Razin et al. 2024, arXiv 2410.08847).

    Evaluations use the same pairs each time, so the first and the last are compared. Training rows are of different
    pairs: they are averaged, and the difference has to exceed their spread.
    """

    reads: ClassVar[tuple[str, ...]] = ("rewards/margins", "logps/chosen", "logps/rejected")

    def __init__(self, remedy: str) -> None:
        super().__init__()
        self._remedy = remedy
        self._held_out: list[Mapping[str, float]] = []

    def look(self, row: Mapping[str, Any]) -> str | None:
        """Take a logged row, of training or of an evaluation."""
        held_out = {name: row.get(f"{_HELD_OUT}{name}") for name in self.reads}
        if not all(map(_is_number, held_out.values())):
            return super().look(row)
        self._held_out.append({name: float(value) for name, value in held_out.items() if value is not None})
        if self._told or len(self._held_out) < 2:
            return None
        first, last = self._held_out[0], self._held_out[-1]
        warning = self._warning({name: Ends(first[name], last[name], 0.0) for name in self.reads}, "held-out ")
        self._told = warning is not None
        return warning

    def judge(self) -> str | None:
        """Compare the first training rows with the last ones."""
        ends = {name: found for name in self.reads if (found := ends_of(self.column(name)))}
        return self._warning(ends, "") if ends else None

    def _warning(self, ends: Mapping[str, Ends], which: str) -> str | None:
        margins, chosen, rejected = (ends[name] for name in self.reads)
        falls = all(one.rise < 0 and one.is_clear for one in (chosen, rejected))
        is_large = -chosen.rise >= max(LEAST_FALL, LEAST_SHARE * abs(chosen.start))
        if not (falls and is_large and margins.rise > 0 and margins.is_clear):
            return None
        numbers = f"`rewards/margins` {margins}, `logps/chosen` {chosen}, `logps/rejected` {rejected}"
        what = f"{which}margins rise while both answers become less likely (likelihood displacement)"
        return f"{what}: {numbers} ({self._remedy})"


@dataclass(frozen=True)
class _Limit:
    """A metric with the share of its start below which it has collapsed."""

    name: str
    share: float
    what: str
    remedy: str


class Collapse(Watch):
    """A metric whose average falls below a share of its start."""

    limit: ClassVar[_Limit]

    def judge(self) -> str | None:
        """Compare the first rows with the last ones."""
        ends = ends_of(self.column(self.limit.name))
        if ends is None or not 0 <= ends.now < self.limit.share * ends.start:
            return None
        return f"{self.limit.what}: `{self.limit.name}` {ends} ({self.limit.remedy})"


class EntropyCollapse(Collapse):
    """Sampled answers that become all alike: the entropy of a token falls below a tenth of its start."""

    reads: ClassVar[tuple[str, ...]] = ("entropy",)
    limit: ClassVar[_Limit] = _Limit(
        "entropy",
        0.1,
        "the model samples nearly the same answers, so their rewards no longer differ",
        "lower `training.learning_rate`, or raise the temperature",
    )


class LengthCollapse(Collapse):
    """Sampled answers that become very short: their mean length falls below a fifth of its start."""

    reads: ClassVar[tuple[str, ...]] = ("completions/mean_length",)
    limit: ClassVar[_Limit] = _Limit(
        "completions/mean_length",
        0.2,
        "the sampled answers become very short",
        "check that no reward prefers short answers, or lower `training.learning_rate`",
    )


@dataclass(frozen=True)
class Trend:
    """Correlations of two logged metrics with each other and with the step."""

    together: float
    """Correlation of the two."""
    rise: float
    """Correlation of the first with the step."""
    rise_alone: float
    """The same with the second metric held fixed (partial correlation)."""
    steps: int

    @classmethod
    def of(cls, values: Sequence[float], others: Sequence[float]) -> Trend:
        """Correlate two metrics of the same rows."""
        steps = range(len(values))
        together, rise, other = _correlation(values, others), _correlation(values, steps), _correlation(others, steps)
        rest = math.sqrt(max(0.0, (1 - together**2) * (1 - other**2)))
        alone = (rise - together * other) / rest if rest > 1e-9 else 0.0
        return cls(together, rise, max(-1.0, min(1.0, alone)), len(values))

    def is_significant(self, correlation: float, fixed: int = 0) -> bool:
        """True if a correlation is above 0 at the 1 % level, by its z-transform (Fisher 1915)."""
        bounded = max(-_NEARLY_ONE, min(_NEARLY_ONE, correlation))
        return math.atanh(bounded) * math.sqrt(self.steps - 3 - fixed) > _Z99


_NEARLY_ONE = 1 - 1e-12

_Z99 = 2.326348
"""Standard deviations above which a normal distribution has 1 % of its mass."""


def _correlation(values: Sequence[float], others: Sequence[float]) -> float:
    """Pearson's correlation; 0 if one side is constant."""
    middle, other = fmean(values), fmean(others)
    pairs = [(one - middle, two - other) for one, two in zip(values, others, strict=True)]
    spread = math.sqrt(sum(one * one for one, _ in pairs) * sum(two * two for _, two in pairs))
    return sum(one * two for one, two in pairs) / spread if spread else 0.0


class LengthHacking(Watch):
    """A reward that rises with the length of the answers alone (Singhal et al. 2023, arXiv 2310.03716).

    Over the last logged rows, reward and length rise together, and the reward does not rise once the length is held
    fixed.
    """

    reads: ClassVar[tuple[str, ...]] = ("reward", "completions/mean_length")
    rows: ClassVar[int] = 30
    """Number of logged rows that are judged."""
    together: ClassVar[float] = 0.7
    """Least correlation of reward and length: half of the reward's variance."""

    def judge(self) -> str | None:
        """Judge the last rows."""
        rewards, lengths = (self.column(name)[-self.rows :] for name in self.reads)
        if len(rewards) < self.rows:
            return None
        trend = Trend.of(rewards, lengths)
        rises = trend.is_significant(trend.rise) and _correlation(lengths, range(self.rows)) > 0
        if trend.together < self.together or not rises or trend.is_significant(trend.rise_alone, fixed=1):
            return None
        ends = [Ends(fmean(values[:WINDOW]), fmean(values[-WINDOW:]), 0.0) for values in (rewards, lengths)]
        return (
            f"the reward rises with the length of the answers alone: over {self.rows} logged steps, `reward` "
            f"{ends[0]}, `completions/mean_length` {ends[1]}, correlation {trend.together:.2f}; at a fixed length "
            f"the reward does not rise, correlation with the step {trend.rise_alone:.2f} "
            "(add a reward that bounds the length)"
        )
