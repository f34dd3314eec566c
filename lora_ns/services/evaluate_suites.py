"""Suites asked of several systems on the same items: the figures of each, and how they compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lora_ns.answers.ask import Asked, ask
from lora_ns.answers.ask_harness import HarnessAnswers
from lora_ns.answers.harness_tasks import load_tasks
from lora_ns.answers.opened import Opened, Trained
from lora_ns.answers.plain_model import PlainModel
from lora_ns.answers.weights import ADAPTER, BASE, Weights
from lora_ns.answers.work import Compute
from lora_ns.data.contamination import Overlap
from lora_ns.data.rows import Row
from lora_ns.data.suite_rows import read_suite
from lora_ns.errors import Problem, UsageError
from lora_ns.run.manifest import Manifest
from lora_ns.statistics import Measure
from lora_ns.suites import Gold, LmEvalSuite, Suite
from lora_ns.training.prepared import folders_of

ADAPTER_NAME, BASE_NAME, CONSTANT_NAME = "adapter", "base", "constant"
"""Names of the run that is evaluated, of its base, and of the constant answer that was best on the training rows."""


@dataclass(frozen=True)
class System:
    """Something that answers: an opened run with the weights that it computes with."""

    name: str
    opened: Opened
    weights: str = ADAPTER
    is_rival: bool = False
    """True for a system that is compared with the adapter too, not only with the base."""


@dataclass(frozen=True)
class Answered:
    """The answers of all systems to the items of a suite."""

    suite: Suite
    golds: Sequence[Gold]
    answers: Mapping[str, Sequence[Any]]
    """The answer to each item, by system."""
    truncated: int = 0
    by_figure: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    """For a system that answers for each figure differently, the answers by figure. It has no other figures."""
    overlaps: Sequence[Overlap | None] = ()
    """For each item, the training row that holds it; empty if it is not known."""
    judged: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """For a suite against the base, the judgement of each answer by system, which is measured in its place."""
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> list[str]:
        """The systems whose figures say something: all, or those that are compared with the base by a judge."""
        return [name for name in self.answers if not (self.suite.is_against_base and name == BASE_NAME)]

    @property
    def clean(self) -> list[int]:
        """The places of the items that no training row holds."""
        return [place for place in range(len(self.golds)) if not (self.overlaps and self.overlaps[place])]

    def measures(self, system: str, places: Sequence[int] | None = None) -> dict[str, Measure]:
        """The figures of a system by name; the first is the one that decides.

        Args:
            system: name of the system.
            places: indices of the items; None for all.
        """
        if places is not None:
            return self._measure(system, places)
        if system not in self._of_all_items:
            self._of_all_items[system] = self._measure(system, range(len(self.golds)))
        return self._of_all_items[system]

    @cached_property
    def _of_all_items(self) -> dict[str, dict[str, Measure]]:
        """The figures of all items by system, as far as they were asked for: each is computed once."""
        return {}

    def _measure(self, system: str, chosen: Sequence[int]) -> dict[str, Measure]:
        golds = [self.golds[place] for place in chosen]
        several = self.by_figure.get(system)
        if several is None:
            answers = (self.judged or self.answers)[system]
            return dict(self.suite.measure(golds, [answers[place] for place in chosen]))
        return {
            name: self.suite.measure(golds, [answers[place] for place in chosen])[name]
            for name, answers in several.items()
        }


Rows = Callable[[Suite], Sequence[Row]]
"""Finds the rows of a suite."""


def answer_suites(
    systems: Sequence[System], suites: Sequence[Suite], rows: Rows, computing: Callable[[Opened], Compute]
) -> list[Answered]:
    """Ask all systems the same items. Systems of one run share its load and each batch of prompts.

    Args:
        systems: the systems, each with a name of its own. The first one's row format, loss and generation settings
            count for all.
        suites: the suites.
        rows: finds the rows of a suite.
        computing: makes the function that computes the tasks of a run.

    Raises:
        UsageError: if a suite has no rows, or the run has no such figure.
        DataError: names the rows that cannot be asked.
    """
    like = systems[0].opened.manifest
    read = {suite.title: _some(suite, rows(suite)) for suite in suites if suite.asks != "itself"}
    harness = _harness(suites, like)
    found: dict[str, dict[str, Sequence[Any]]] = {title: {} for title in read}
    asked_first: list[Asked] = []
    for opened, together in _by_run(systems):
        shared = opened.load() if harness else opened
        asked = [ask(shared, suite, read[suite.title], like) for suite in suites if suite.title in read]
        asked_first = asked_first or asked
        pairs = [(system, one) for system in together for one in asked if _is_asked(system, one.suite)]
        results = computing(shared)([one.task(system.weights) for system, one in pairs]) if pairs else []
        for (system, one), result in zip(pairs, results, strict=True):
            found[one.suite.title][system.name] = one.answers(result)
        if isinstance(shared, Trained):
            _ask_harness(harness.values(), shared, together, like)
    answered = {
        one.suite.title: Answered(one.suite, one.golds, found[one.suite.title], one.truncated) for one in asked_first
    } | {title: Answered(one.suite, one.golds, one.answers(), notes=one.notes()) for title, one in harness.items()}
    return [answered[suite.title] for suite in suites]


def _harness(suites: Sequence[Suite], like: Manifest) -> dict[str, HarnessAnswers]:
    """The suites of lm-evaluation-harness, with their tasks loaded, by title."""
    return {
        suite.title: HarnessAnswers(suite, load_tasks(suite, folders_of(like)[0]))
        for suite in suites
        if isinstance(suite, LmEvalSuite)
    }


def _ask_harness(harness: Iterable[HarnessAnswers], shared: Trained, systems: Sequence[System], like: Manifest) -> None:
    """Ask the systems of a loaded run, one after the other."""
    weights = Weights(shared)
    for system in systems:
        for one in harness:
            with weights.using(system.weights) as trained:
                one.ask(system.name, trained, like)
    weights.restore()


def _is_asked(system: System, suite: Suite) -> bool:
    """False for the distance of a base from itself, and of a plain model, which has no base."""
    return suite.asks != "drift" or (system.weights != BASE and not isinstance(system.opened, PlainModel))


def _some(suite: Suite, rows: Sequence[Row]) -> Sequence[Row]:
    if not rows:
        what = f"the suite `{suite.title}` has no rows"
        raise UsageError(Problem(suite.path or "", what, "give a file with `--data`, or as `path` of the suite"))
    return rows


def _by_run(systems: Sequence[System]) -> list[tuple[Opened, list[System]]]:
    """The systems of each opened run, in the order in which they are given."""
    groups: dict[int, tuple[Opened, list[System]]] = {}
    for system in systems:
        groups.setdefault(id(system.opened), (system.opened, []))[1].append(system)
    return list(groups.values())


def contests_of(systems: Sequence[System], reference: str = BASE_NAME) -> list[tuple[str, str]]:
    """The pairs of systems to compare: each with the reference, and rivals with the adapter."""
    with_reference = [(system.name, reference) for system in systems if system.name != reference]
    with_adapter = [(system.name, ADAPTER_NAME) for system in systems if system.is_rival]
    return [*with_reference, *with_adapter]


def rows_of(suite: Suite, manifest: Manifest, usual: Sequence[Row]) -> Sequence[Row]:
    """The rows of a suite: those of its file, or the usual ones.

    Raises:
        DataError: if there is no such file, or names the rows that cannot be read.
    """
    if suite.path is None:
        return usual
    return read_suite(suite, f"suite {suite.title}", manifest.recipe, folders_of(manifest)[0])
