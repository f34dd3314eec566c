"""`explain`: replays of the steps at which a run went wrong, with one setting changed at a time, until one cures it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_ns.answers.opened import reopen_base
from lora_ns.errors import Problem, UsageError
from lora_ns.machine import libraries
from lora_ns.machine.hardware import detect
from lora_ns.recipe.distributed import Processes
from lora_ns.run.directory import RunDir
from lora_ns.run.last_checkpoint import search
from lora_ns.run.manifest import Manifest
from lora_ns.run.metrics import read_metrics
from lora_ns.run.observer import Observer
from lora_ns.services.explain.factors import Factor, can_exchange, exchanged, factors_of
from lora_ns.services.explain.replay import Course, Window, play
from lora_ns.services.explain.trouble import Trouble, find_trouble
from lora_ns.training.prepared import reopen_prepared

STEPS = 20
"""Steps of a replay after the trouble began."""

FLAT_STEPS = 2 * STEPS
"""Steps of a replay of a run that learned nothing, which begins with its first step."""

MOST_STEPS = 200
"""Longest replay."""

CURED = 0.05
"""Relative fall of the loss, against the replay without a change, that cures a flat run."""

HELD = 0.5
"""Share of the rise of a loss that a change has to prevent."""


@dataclass(frozen=True)
class Replay:
    """A replay of the steps with one change."""

    name: str
    loss: float | None
    """Training loss over its last steps; None if the replay broke."""
    held_out: float | None
    """Loss of the evaluation rows after it; None without such rows, or if the replay broke."""
    is_cured: bool
    broken: str = ""
    """What broke it."""


@dataclass(frozen=True)
class Cause:
    """Why a run went wrong."""

    code: str
    what: str
    key: str
    """Key of the recipe to change; empty if it is not a key."""
    remedy: str


@dataclass(frozen=True)
class Explanation:
    """The result of `lorans explain`."""

    run: str
    trouble: Trouble | None
    """What went wrong; None if nothing did."""
    begin: int = 0
    """The step after which the replays begin."""
    end: int = 0
    """The last step of the replays."""
    replays: tuple[Replay, ...] = ()
    """The replays; the first one changes nothing."""
    cause: Cause | None = None
    also: tuple[str, ...] = ()
    """Other changes that cure the run."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def explain(run: RunDir, observer: Observer, steps: int | None = None, base_path: Path | None = None) -> Explanation:
    """Find the cause of a run that diverged, broke or learned nothing.

    Args:
        run: the run, whatever its state. Nothing in it is changed.
        observer: receives the stages.
        steps: steps to replay after the trouble began; default: 20, or 40 for a run that learned nothing.
        base_path: path to the base model, if it has moved.

    Raises:
        UsageError: if the run has not trained yet, or one of its files is damaged.
        LoransError: any error of a training, except that its loss breaks.
    """
    started, manifest = time.monotonic(), run.read()
    rows = read_metrics(run.metrics).rows
    trouble = find_trouble(manifest, rows)
    if trouble is None and not any("loss" in row for row in rows):
        what = "has no trained step to explain"
        raise UsageError(Problem(str(run.path), what, f"`lorans train {run.path} --resume` trains it"))
    if trouble is None:
        return Explanation(str(run.path), None)
    notes = list(_notes(manifest))
    window = _window(run, manifest, trouble, steps, base_path)
    found = _Search(window, trouble, observer).run()
    return replace(found, run=str(run.path), notes=(*notes, *found.notes), seconds=round(time.monotonic() - started, 1))


def _notes(manifest: Manifest) -> Iterator[str]:
    if isinstance(manifest.recipe.distributed, Processes) and manifest.plan.world_size.value > 1:
        yield f"replayed in one process; the run had {manifest.plan.world_size.value}, so its batches are others"


def _window(run: RunDir, manifest: Manifest, trouble: Trouble, steps: int | None, base_path: Path | None) -> Window:
    """The steps to replay: from the last checkpoint before the trouble, or from the first step."""
    machine = detect()
    libraries.prepare(machine, 1)
    base = reopen_base(manifest, base_path)
    prepared = reopen_prepared(run, manifest, base)
    can_resume = manifest.recipe.peft.capabilities.resume is True and not manifest.recipe.distributed.shards
    whole = search(run.checkpoints, manifest.run_id).whole if can_resume and trouble.step else {}
    step = max((one for one in whole if one <= trouble.step), default=0)
    checkpoint = (whole[step], step) if step else None
    after = steps or (FLAT_STEPS if trouble.kind == "flat" else STEPS)
    world, plan = manifest.plan.world_size.value, manifest.plan
    window = Window(run, manifest, prepared, checkpoint, min(MOST_STEPS, trouble.seen - step + after))
    return window.with_plan(
        world_size=1,
        device=machine.accelerator,
        gradient_accumulation_steps=world * plan.gradient_accumulation_steps.value,
    )


@dataclass
class _Search:
    """The replays of a window."""

    window: Window
    trouble: Trouble
    observer: Observer

    def __post_init__(self) -> None:
        self._replays: list[Replay] = []

    def run(self) -> Explanation:
        """Replay the steps as they were, then with each change."""
        as_it_was = self._play("as it was", self.window, lambda _: False)
        if self.trouble.kind == "broken" and (cause := self._of_rows(as_it_was)):
            return self._result(cause)
        if not self._repeats(as_it_was):
            note = "the replay without a change is in order, so nothing can cure it: replay more with `--steps`"
            return self._result(None, notes=(note,))
        factors, cures = factors_of(self.window, self.trouble.kind), self._cures(as_it_was)
        courses = {factor: self._play(factor.name, factor.change(self.window), cures) for factor in factors}
        cured = [factor for factor in factors if cures(courses[factor])]
        if not cured:
            return self._result(self._of_answers(as_it_was, courses) if self.trouble.kind == "flat" else None)
        if self.trouble.kind == "flat":
            cured.sort(key=lambda factor: courses[factor].reached)
        return self._result(self._cause(cured[0]), also=tuple(factor.name for factor in cured[1:]))

    def _play(self, name: str, window: Window, cures: Callable[[Course], bool], asked: Sequence[int] = ()) -> Course:
        self.observer.stage(f"replaying steps {window.begin + 1:,} to {window.end:,}: {name}")
        course = play(window, asked)
        loss = None if course.is_broken else round(course.level, 6)
        self._replays.append(Replay(name, loss, course.held_out, cures(course), course.broken))
        return course

    def _repeats(self, as_it_was: Course) -> bool:
        if self.trouble.kind == "broken":
            return as_it_was.is_broken
        return self.trouble.kind == "flat" or self._rise(as_it_was) > 0

    def _rise(self, course: Course) -> float:
        """How far the loss rises above its first steps, without what could be noise; infinite if it broke."""
        if course.is_broken:
            return math.inf
        first = course.losses[: max(1, min(3, len(course.losses) // 4))]
        before = sum(first) / len(first)
        return course.level - before * (1 + CURED)

    def _cures(self, as_it_was: Course) -> Callable[[Course], bool]:
        if self.trouble.kind == "broken":
            return lambda course: not course.is_broken
        if self.trouble.kind == "diverged":
            rise = self._rise(as_it_was)
            return lambda course: not course.is_broken and self._rise(course) <= max(0.0, (1 - HELD) * rise)
        return lambda course: course.reached <= as_it_was.reached - CURED * abs(as_it_was.reached)

    def _of_rows(self, as_it_was: Course) -> Cause | None:
        """The cause if rows have no finite loss before any of these steps is trained."""
        rows, one_step = as_it_was.last_rows, replace(self.window, steps=1)
        if not rows:
            return None
        asked = self._play("rows of the last batches, one by one", one_step, lambda _: False, rows)
        wrong = [row for row, loss in zip(rows, asked.asked, strict=True) if not math.isfinite(loss)]
        if not wrong:
            return None
        full = next((factor for factor in factors_of(self.window, "broken") if factor.code == "dtype"), None)
        if full:
            again = self._play(f"the same rows in {full.name}", full.change(one_step), lambda _: False, wrong)
            if all(math.isfinite(loss) for loss in again.asked):
                dtype = self.window.manifest.plan.dtype.value
                what = f"numbers overflow in {dtype}: in float32 the same rows have a finite loss"
                return Cause("dtype", what, full.key, full.remedy(self.window))
        if len(wrong) == len(rows) > 1:
            what = "no row has a finite loss, even before the first step: the base itself gives no numbers"
            return Cause("base", what, "model.base_model", "check the files of the base, and `model.dtype`")
        named = ", ".join(f"{row + 1:,}" for row in wrong[:_SHOWN]) + (", ..." if len(wrong) > _SHOWN else "")
        what = f"row {named} of the prepared rows has no finite loss, even alone and before these steps"
        return Cause("rows", what, "dataset", "remove or correct it")

    def _of_answers(self, as_it_was: Course, courses: dict[Factor, Course]) -> Cause | None:
        """The cause if a training on exchanged answers is as good, so that they have nothing to do with the texts."""
        if not can_exchange(self.window):
            return None
        rates = {factor: course for factor, course in courses.items() if factor.key == "training.learning_rate"}
        best = min(rates, key=lambda factor: rates[factor].reached, default=None)
        window, reached = self.window, as_it_was.reached
        if best is not None and rates[best].reached < reached:
            window, reached = best.change(window), rates[best].reached
        other = self._play("answers exchanged between rows", exchanged(window), lambda _: False)
        if other.reached > reached + _AS_GOOD * abs(reached):
            return None
        what = (
            f"the answers have nothing to do with the texts: exchanged between the rows they are learned as well, loss "
            f"{other.reached:.4g} against {reached:.4g}"
        )
        return Cause("answers", what, "dataset", "check how answers and texts were joined: `lorans validate --show 5`")

    def _cause(self, factor: Factor) -> Cause:
        before, after = self._replays[0], next(one for one in self._replays if one.name == factor.name)
        what = f"with {factor.name}, {_ends(after)} instead of {_ends(before)}"
        return Cause(factor.code, what, factor.key, factor.remedy(self.window))

    def _result(self, cause: Cause | None, also: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Explanation:
        window = self.window
        return Explanation("", self.trouble, window.begin, window.end, tuple(self._replays), cause, also, notes)


_SHOWN = 5
"""Rows to name."""

_AS_GOOD = 0.02
"""Relative difference of two losses that counts as none."""


def _ends(replay: Replay) -> str:
    if replay.broken or replay.loss is None:
        return "a loss that is not finite"
    if replay.held_out is not None:
        return f"an evaluation loss of {replay.held_out:.4g}"
    return f"a loss of {replay.loss:.4g}"
