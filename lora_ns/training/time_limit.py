"""The time limit of a run: training ends early enough for the last checkpoint, evaluation, adapter and its check."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.parallel.group import any_of
from lora_ns.run.manifest import IN_TIME, Manifest

if TYPE_CHECKING:
    from transformers import TrainerCallback

MARGIN = 1.25
"""Factor by which the end of a run may take longer than its parts took before."""

RECENT = 20
"""Steps whose longest time another step may take."""

SAVES = 2
"""Times that weights are written in the end: the last checkpoint and the adapter."""


@dataclass
class TimeLimit:
    """The clock of a run, with the longest times of what its end repeats."""

    seconds: float
    evaluates: bool = False
    """True if the model is evaluated in the end."""
    clock: Callable[[], float] = time.monotonic
    began: float = field(default=-1.0)
    """Time at which the run began; by default, now."""
    loading: float = 0.0
    """Seconds to load the base, which the check of the adapter does again."""
    asking: float = 0.0
    """Seconds to ask the suites, which are asked again in the end."""
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Seconds of recent steps; the first ones may compile and allocate, and take much longer."""
    save: float | None = None
    """Seconds of a checkpoint; None before the first one, for which the time to load the base stands."""
    evaluation: float | None = None
    """Seconds of an evaluation; None before the first one."""
    ends_at: int | None = None
    """Step after which the run ends, whatever time it takes; None for a limit of seconds."""

    @classmethod
    def of(cls, manifest: Manifest) -> TimeLimit | None:
        """Start the clock of a run; None if it has no limit."""
        seconds = manifest.recipe.training.max_seconds
        if manifest.ends_at is not None:
            return cls(math.inf, bool(manifest.plan.eval_rows.value), ends_at=manifest.ends_at)
        return None if seconds is None else cls(seconds, bool(manifest.plan.eval_rows.value))

    def __post_init__(self) -> None:
        """Start the clock."""
        if self.began < 0:
            self.began = self.clock()

    @property
    def step(self) -> float:
        """Seconds of the longest recent step."""
        return max(self.steps, default=0.0)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self.began

    @property
    def reserve(self) -> float:
        """Seconds that the end of the run takes."""
        save = self.loading if self.save is None else self.save
        evaluation = (self.step if self.evaluation is None else self.evaluation) if self.evaluates else 0.0
        return MARGIN * (SAVES * save + evaluation + self.loading + self.asking)

    def allows_a_step(self) -> bool:
        """True if the run can make another step, and end within the limit."""
        return self.elapsed + self.step + self.reserve <= self.seconds

    def reason(self, step: int, steps: int) -> str:
        """Say why training ends."""
        if self.ends_at is not None:
            return f"{IN_TIME}stopped after step {step:,} of {steps:,}, where `max_time` ended the run that it repeats"
        kept = f", {self.reserve:,.0f} s of it kept for the end" if self.reserve >= 1 else ""
        return f"{IN_TIME}stopped after step {step:,} of {steps:,}, because of `max_time` ({self.seconds:,.0f} s{kept})"


@contextlib.contextmanager
def timing(limit: TimeLimit | None, part: Literal["loading", "asking"]) -> Iterator[None]:
    """Note the seconds of a part that the end of a run repeats."""
    before = limit.clock() if limit else 0.0
    yield
    if limit:
        setattr(limit, part, limit.clock() - before)


def ending_in_time(limit: TimeLimit, end: Callable[[str], None]) -> TrainerCallback:
    """A callback that ends training with a checkpoint when another step would pass the limit on any rank."""
    from transformers import TrainerCallback

    class EndingInTime(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """See `ending_in_time`. Of what happens more than once, the longest time counts."""

        since = 0.0

        def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            self.since = limit.clock()

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            limit.steps.append(self._passed())
            is_over = state.global_step == limit.ends_at or not limit.allows_a_step()
            if any_of(int(is_over)) and state.global_step < state.max_steps:
                end(limit.reason(state.global_step, state.max_steps))
                control.should_save = control.should_training_stop = True

        def on_evaluate(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            limit.evaluation = max(limit.evaluation or 0.0, self._passed())

        def on_save(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            limit.save = max(limit.save or 0.0, self._passed())

        def _passed(self) -> float:
            """Seconds since the last event."""
            before, self.since = self.since, limit.clock()
            return self.since - before

    return EndingInTime()
