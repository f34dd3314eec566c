"""The report of an evaluation: the figures of all systems, and verdicts on the same items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lora_ns.files.disk import now, write_atomic
from lora_ns.files.strict_json import strict_json
from lora_ns.run.directory import RunDir
from lora_ns.services.evaluate_suites import Answered
from lora_ns.statistics import Comparison, Verdict, adjust, compare, estimate

if TYPE_CHECKING:
    from lora_ns.statistics import Measure
    from lora_ns.suites import Gold


@dataclass(frozen=True)
class Figure:
    """A figure of one system, with its 95 % interval."""

    value: float
    """NaN if it is undefined on these items."""
    low: float | None
    """Lower end of the interval; None if the items say nothing about it."""
    high: float | None


@dataclass(frozen=True)
class Contest:
    """A system against another one, on the same items."""

    figure: str
    system: str
    against: str
    difference: float
    low: float | None
    high: float | None
    p_value: float
    """Corrected by Holm's method for the comparisons that were made together."""
    test: str
    wins: int | None
    ties: int | None
    losses: int | None
    smallest: float | None
    """Smallest difference that these items show four times in five."""
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Figures:
    """The figures of all systems on some items."""

    items: int
    figures: Mapping[str, Mapping[str, Figure]]
    """By name and system; the first name is the figure that decides."""
    contests: tuple[Contest, ...] = ()


@dataclass(frozen=True)
class SuiteReport:
    """The result of a suite."""

    name: str
    kind: str
    whole: Figures
    groups: Mapping[str, Figures]
    """By the values of the column `group_by`."""
    lower_is_better: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    """Figures that are shares of the items."""
    contaminated: Mapping[str, str] | None = None
    """Items that are in the training rows, each with the row that holds it; None if it is not known."""
    clean: Figures | None = None
    """The figures without these items; None if there are none such, or no others."""

    @property
    def deciding(self) -> str:
        """The figure that decides."""
        return next(iter(self.whole.figures))


@dataclass(frozen=True)
class _Part:
    """Some items of a suite: all of them, or a group."""

    answered: Answered
    places: Sequence[int]
    group: str | None = None
    is_clean: bool = False
    """True for the items that no training row holds."""

    @property
    def is_whole(self) -> bool:
        """True for all items."""
        return self.group is None and not self.is_clean

    def measures(self) -> dict[str, Mapping[str, Measure]]:
        """The measures of each system."""
        places = None if self.is_whole else self.places
        return {system: self.answered.measures(system, places) for system in self.answered.answers}

    def clusters(self) -> list[str] | None:
        """The cluster of each item; None if they are independent."""
        column = self.answered.suite.cluster_by
        return [str(self.answered.golds[place].values.get(column)) for place in self.places] if column else None


def report(answered: Sequence[Answered], pairs: Sequence[tuple[str, str]]) -> list[SuiteReport]:
    """The figures of all suites, with verdicts.

    The p-values of the deciding figures are corrected together by Holm's method; so are those of the other figures,
    those of the groups, and those without the items that are in the training rows.

    Args:
        answered: the answers to each suite.
        pairs: names of systems to compare: each with the one that it is compared with. Figures that one of them does
            not have are left out.
    """
    parts = [part for one in answered for part in _parts(one)]
    made = [_made(part, pairs) for part in parts]
    families: dict[tuple[bool, bool, bool], list[tuple[int, int]]] = {}
    for place, (part, (_, contests)) in enumerate(zip(parts, made, strict=True)):
        for number, contest in enumerate(contests):
            families.setdefault((part.is_whole, part.is_clean, contest.decides), []).append((place, number))
    verdicts: dict[tuple[int, int], Comparison] = {}
    for family in families.values():
        compared = adjust([made[place][1][number].comparison for place, number in family])
        verdicts.update(zip(family, compared, strict=True))
    found = [
        (part, replace(figures, contests=tuple(_contest(one, verdicts[place, at]) for at, one in enumerate(contests))))
        for place, (part, (figures, contests)) in enumerate(zip(parts, made, strict=True))
    ]
    return [
        SuiteReport(
            one.suite.title,
            one.suite.kind,
            next(figures for part, figures in found if part.answered is one and part.is_whole),
            {part.group: figures for part, figures in found if part.answered is one and part.group is not None},
            one.suite.lower_is_better,
            _shares(one),
            {gold.where: overlap.row for gold, overlap in zip(one.golds, one.overlaps, strict=True) if overlap}
            if one.overlaps
            else None,
            next((figures for part, figures in found if part.answered is one and part.is_clean), None),
        )
        for one in answered
    ]


def _shares(answered: Answered) -> tuple[str, ...]:
    by_name = answered.measures(next(iter(answered.answers)))
    return tuple(name for name, measure in by_name.items() if measure.unit == "points")


def _parts(answered: Answered) -> list[_Part]:
    """All items, those that no training row holds if others are held, and those of each group."""
    parts, clean = [_Part(answered, range(len(answered.golds)))], answered.clean
    if 0 < len(clean) < len(answered.golds):
        parts.append(_Part(answered, clean, is_clean=True))
    groups = answered.suite.groups(answered.golds)
    return [*parts, *(_Part(answered, places, name) for name, places in groups.items())]


@dataclass(frozen=True)
class _Compared:
    figure: str
    decides: bool
    system: str
    against: str
    comparison: Comparison


def _made(part: _Part, pairs: Sequence[tuple[str, str]]) -> tuple[Figures, list[_Compared]]:
    measures, clusters = part.measures(), part.clusters()
    suite = part.answered.suite
    names = list(next(iter(measures.values())))
    figures: dict[str, dict[str, Figure]] = {name: {} for name in names}
    for system in part.answered.measured:
        for name, measure in measures[system].items():
            found = estimate(measure, clusters=clusters)
            figures[name][system] = Figure(found.value, _end(found.interval.low), _end(found.interval.high))
    contests = [
        _Compared(
            name,
            name == names[0],
            system,
            against,
            compare(
                measures[against][name],
                measures[system][name],
                higher_is_better=name not in suite.lower_is_better,
                clusters=clusters,
            ),
        )
        for system, against in pairs
        if {system, against} <= measures.keys()
        for name in names
        if name not in suite.uncompared
        if name in measures.get(system, ()) and name in measures.get(against, ())
    ]
    return Figures(len(part.places), figures), contests


def _end(value: float) -> float | None:
    """An end of an interval; JSON has no infinity."""
    return value if math.isfinite(value) else None


def _contest(made: _Compared, found: Comparison) -> Contest:
    return Contest(
        figure=made.figure,
        system=made.system,
        against=made.against,
        difference=found.difference,
        low=_end(found.interval.low),
        high=_end(found.interval.high),
        p_value=found.p_value if found.adjusted_p is None else found.adjusted_p,
        test=found.test,
        wins=found.wins,
        ties=found.ties,
        losses=found.losses,
        smallest=found.smallest,
        verdict=found.verdict,
        reason=found.reason,
    )


def item_rows(answered: Answered) -> list[dict[str, Any]]:
    """One row per item: its place, the expected answer, the answers and scores of all systems.

    An item in the training rows has the row that holds it, too.
    """
    found = answered.overlaps or [None] * len(answered.golds)
    scores = {
        system: {
            name: measure.scores.tolist()
            for name, measure in answered.measures(system).items()
            if measure.scores is not None
        }
        for system in answered.measured
    }
    return [
        {
            "suite": answered.suite.title,
            "item": gold.where,
            **({"question": gold.question} if gold.question is not None else {}),
            **({"expected": expected} if (expected := _expected(gold)) is not None else {}),
            **({"contaminated": asdict(overlap)} if (overlap := found[place]) else {}),
            "answers": {system: answers[place] for system, answers in answered.answers.items()},
            **({"judged": _judged(answered, place)} if answered.judged else {}),
            "scores": {
                system: {name: values[place] for name, values in by_name.items()} for system, by_name in scores.items()
            },
        }
        for place, gold in enumerate(answered.golds)
    ]


_LONGEST_REPLY = 2_000
"""Characters of a judge's reply that are kept."""


def _judged(answered: Answered, place: int) -> dict[str, Any]:
    """What the judge said of each answer to an item."""
    return {system: answered.judged[system][place].told(_LONGEST_REPLY) for system in answered.measured}


def _expected(gold: Gold) -> Any:
    """The expected label, or the reference answer."""
    return gold.answer if gold.label is None else gold.label


@dataclass(frozen=True)
class Differing:
    """An item that two systems answer differently."""

    suite: str
    item: str
    question: str | None
    expected: str | None
    answers: Mapping[str, str]
    change: Literal["won", "lost", "other"]
    """`won` if the first system is right and the other one is not."""


def differing(answered: Sequence[Answered], one: str, other: str, most: int) -> list[Differing]:
    """Items that two systems answer differently: first those that the first system lost, then those that it won.

    Args:
        answered: the answers; suites that measure losses have none to show.
        one: name of a system.
        other: name of the system that it is compared with.
        most: number of items, at most, from the start of each suite.
    """
    shown = [each for each in answered if each.suite.asks in {"write", "label"}]
    found = [item for each in shown for item in _differing(each, one, other)]
    return sorted(found, key=lambda item: _ORDER.index(item.change))[:most]


_ORDER = ("lost", "won", "other")


def _differing(answered: Answered, one: str, other: str) -> Iterator[Differing]:
    sides = {name: answered.answers[name] for name in (other, one)}
    measured = [next(iter(answered.measures(name).values())).scores for name in (other, one)]
    sign = -1 if answered.suite.lower_is_better else 1
    for place, gold in enumerate(answered.golds):
        texts = {name: answered.suite.shown(gold, answers[place]) for name, answers in sides.items()}
        if texts[one] == texts[other]:
            continue
        before, after = (0 if scores is None else sign * float(scores[place]) for scores in measured)
        change: Literal["won", "lost", "other"] = "won" if after > before else "lost" if after < before else "other"
        expected = _expected(gold)
        told = None if expected is None else answered.suite.shown(gold, expected)
        yield Differing(answered.suite.title, gold.where, gold.question, told, texts, change)


def save_evaluation(
    run: RunDir, answered: Sequence[Answered], reports: Sequence[SuiteReport], step: int | None = None
) -> str | None:
    """Write the figures and the answer to each item into a new folder of the run; None if the run cannot be written.

    The folder has `results.json` and `items.jsonl`. Figures that are undefined are null.
    """
    folder = run.new_evaluation()
    if folder is None:
        return None
    lines = [strict_json(row) for one in answered for row in item_rows(one)]
    write_atomic(folder / "items.jsonl", "".join(f"{line}\n" for line in lines))
    table = {"created": now(), "step": step, "suites": [asdict(one) for one in reports]}
    write_atomic(folder / "results.json", strict_json(table, indent=2) + "\n")
    return str(folder)
