"""Bisection of a run: the checkpoint at which a figure broke, found by paired tests on the same items."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lora_ns.run.observer import Observer, SilentObserver
from lora_ns.services.bisect_systems import Asker, Course, Point, Reading
from lora_ns.services.repair import reason_against
from lora_ns.statistics import Comparison, Verdict, adjust


@dataclass(frozen=True)
class Against:
    """A verdict on the adapter against an earlier system, corrected by Holm's method for all of these."""

    against: str
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class BisectResult:
    """The result of `lorans bisect`."""

    metric: str
    items: int
    adapter: tuple[Against, ...]
    """The adapter against the systems that may count as good."""
    good: str | None
    """Name of the system that counts as good: the best one that beats the adapter. None if nothing broke."""
    before: Reading | None
    """The last system before the break."""
    after: Reading | None
    """The first system after it."""
    drop: str
    """Verdict on `after` against `before`, with its reason."""
    readings: tuple[Reading, ...]
    """Every system that was asked, by step."""
    checkpoints: int
    """Number of checkpoints that could be asked."""
    is_share: bool
    """True if the figure is a share of the items."""
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    """Ways to get the skill back."""


def bisect(asker: Asker, course: Course, good: str | None = None, observer: Observer | None = None) -> BisectResult:
    """Find the checkpoint at which a figure broke: the first that is worse than the good system.

    The adapter is compared with the base, the first checkpoint, and the best one if training kept it; Holm's method
    corrects for these comparisons. Of those that are better than it, the best counts as good. A binary search over the
    checkpoints after it then asks one more each time: log2(n) of n. "Cannot tell" counts as not broken.

    Args:
        asker: asks the systems.
        course: the systems.
        good: name or step of the system that counts as good.
        observer: receives the stages.

    Raises:
        UsageError: if there is no such checkpoint.
    """
    observer = observer or SilentObserver()
    candidates = course.candidates(good)
    observer.stage(f"asking {', '.join(point.name for point in (*candidates, course.end))}")
    asker.ask(*candidates, course.end)
    compared = adjust([asker.compare(course.end, point) for point in candidates])
    of_adapter = dict(zip(candidates, compared, strict=True))
    beaten = [point for point, found in of_adapter.items() if found.verdict == "worse"]
    if not beaten:
        return _result(asker, course, of_adapter)
    sign = 1 if asker.metric.higher_is_better else -1
    reference = max(beaten, key=lambda point: sign * asker.figure(point).value)
    between = [point for point in course.checkpoints if reference.step < point.step]
    line, low, high = [reference, *between, course.end], 0, len(between) + 1
    while high - low > 1:
        middle = (low + high) // 2
        observer.stage(f"asking {line[middle].name}, one of {high - low - 1} left")
        if asker.compare(line[middle], reference).verdict == "worse":
            high = middle
        else:
            low = middle
    return _result(asker, course, of_adapter, reference, (line[low], line[high]))


def _result(
    asker: Asker,
    course: Course,
    of_adapter: Mapping[Point, Comparison],
    good: Point | None = None,
    broke: tuple[Point, Point] | None = None,
) -> BisectResult:
    """The result; the verdicts on the adapter are the corrected ones."""
    points = asker.asked_of(course.all())
    readings = {point: asker.reading(point, None if point == course.end else good) for point in points}
    if good is not None:
        found = of_adapter[good]
        readings[course.end] = replace(
            readings[course.end], against=good.name, verdict=found.verdict, reason=found.reason
        )
    drop = asker.compare(broke[1], broke[0]) if broke else None
    return BisectResult(
        metric=str(asker.metric),
        items=len(asker.asked.golds),
        adapter=tuple(Against(point.name, found.verdict, found.reason) for point, found in of_adapter.items()),
        good=good.name if good else None,
        before=readings[broke[0]] if broke else None,
        after=readings[broke[1]] if broke else None,
        drop=drop.reason if drop else "",
        readings=tuple(readings.values()),
        checkpoints=len(course.checkpoints),
        is_share=asker.is_share(),
        notes=tuple(_notes(asker, of_adapter, broke, drop)),
        advice=tuple(_advice(asker, course, broke[0])) if broke else (),
    )


def _notes(
    asker: Asker,
    of_adapter: Mapping[Point, Comparison],
    broke: tuple[Point, Point] | None,
    drop: Comparison | None,
) -> Iterator[str]:
    if asker.asked.truncated:
        yield f"{asker.asked.truncated:,} rows are longer than `max_seq_length` and were truncated"
    if broke is None or drop is None:
        if all(found.verdict == "cannot tell" for found in of_adapter.values()):
            yield "not worse is not proven equal: the verdicts say which difference these rows can show"
    elif drop.verdict != "worse":
        yield (
            f"{broke[1].name} against {broke[0].name} is `{drop.verdict}`: the figure fell gradually, or these rows are"
            " too few to say at which step"
        )


def _advice(asker: Asker, course: Course, before: Point) -> Iterator[str]:
    """Ways to get a skill back, the cheapest first."""
    if before in course.checkpoints:
        yield f"use {before.weights}, which still has it: a checkpoint is a PEFT adapter"
    if reason_against(asker.opened.manifest) is None:
        command = f"lorans bisect {shlex.quote(str(asker.opened.run.path))} --metric {asker.metric} --repair FOLDER"
        yield f"reduce the intruder dimensions of the adapter, and test the result: `{command}`"
    yield (
        "train again with rows of the old skill mixed in, by a second `[[dataset.sources]]` with a small `weight`; take"
        " other rows than those of this test"
    )
