"""Gates of an evaluation: figures that a run must reach, and verdicts that it must not get."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lora_ns.errors import Problem, UsageError, did_you_mean
from lora_ns.services.evaluate_suites import ADAPTER_NAME
from lora_ns.services.verdicts import Contest, SuiteReport

Side = Literal["under", "over"]


@dataclass(frozen=True)
class Bound:
    """A limit that a figure must keep: not less than `value`, or not more."""

    figure: str
    value: float
    side: Side = "under"

    @classmethod
    def of(cls, text: str, side: Side) -> Bound:
        """Read a bound such as `gsm8k.exact_match=0.4`. Raises `UsageError`."""
        figure, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not figure.strip() or not math.isfinite(value):
            what = f"`{text}` is no figure with a number"
            raise UsageError(Problem(f"--fail-{side}", what, "write it like `exact_match=0.9`"))
        return cls(figure.strip(), value, side)


@dataclass(frozen=True)
class Gate:
    """The outcome of a gate."""

    name: str
    passed: bool
    told: str
    """The figure and its limit, or the verdict, as a sentence."""


@dataclass(frozen=True)
class Gates:
    """The gates that are asked for."""

    bounds: Sequence[Bound] = ()
    if_worse: bool = False

    @classmethod
    def of(cls, under: Iterable[str], over: Iterable[str], if_worse: bool) -> Gates:
        """Read the gates as they are written. Raises `UsageError`."""
        bounds = [*(Bound.of(text, "under") for text in under), *(Bound.of(text, "over") for text in over)]
        return cls(bounds, if_worse)

    def judge(self, metrics: Mapping[str, float], reports: Sequence[SuiteReport]) -> list[Gate]:
        """Judge an evaluation.

        Args:
            metrics: the figures by name.
            reports: the suites with their verdicts.

        Raises:
            UsageError: if there is no such figure, or nothing is compared.
        """
        return [*self._reached(metrics, reports), *(_not_worse(reports) if self.if_worse else ())]

    def _reached(self, metrics: Mapping[str, float], reports: Sequence[SuiteReport]) -> Iterator[Gate]:
        figures = {**metrics, **dict(_qualified(reports))}
        lower = _lower_is_better(reports)
        for bound in self.bounds:
            option = f"--fail-{bound.side}"
            if bound.figure not in figures:
                hint = did_you_mean(bound.figure, figures)
                known = hint or f"one of: {', '.join(sorted(figures))}"
                raise UsageError(Problem(option, f"there is no figure `{bound.figure}`", known))
            if bound.side == "under" and bound.figure in lower:
                what = f"`{bound.figure}` is better the lower it is"
                raise UsageError(Problem(option, what, f"write `--fail-over {bound.figure}={bound.value:g}`"))
            found = figures[bound.figure]
            passed = found >= bound.value if bound.side == "under" else found <= bound.value
            least = "at least" if bound.side == "under" else "at most"
            yield Gate(bound.figure, passed, f"{bound.figure} is {found:.4g}, and has to be {least} {bound.value:g}")


def _qualified(reports: Iterable[SuiteReport]) -> Iterator[tuple[str, float]]:
    """The figures of the adapter, named after their suites and groups."""
    for one in reports:
        for group, part in [("", one.whole), *one.groups.items()]:
            for name, by_system in part.figures.items():
                yield f"{one.name}.{name}{'/' * bool(group)}{group}", by_system[ADAPTER_NAME].value


def _lower_is_better(reports: Iterable[SuiteReport]) -> set[str]:
    plain = {name for one in reports for name in one.lower_is_better}
    return plain | {f"{one.name}.{name}" for one in reports for name in one.lower_is_better}


def _not_worse(reports: Sequence[SuiteReport]) -> Iterator[Gate]:
    """A gate for each suite and group: the run is not worse than anything it is compared with."""
    if not any(one.whole.contests for one in reports):
        what = "nothing is compared, so that nothing can be worse"
        raise UsageError(Problem("--fail-if-worse", what, "add `--exact-match`, `--suite` or another run"))
    for one in reports:
        for group, part in [("", one.whole), *one.groups.items()]:
            if not part.contests:  # as of drift, which the base itself does not have
                continue
            lost = [contest for contest in part.contests if contest.figure == one.deciding and _is_lost(contest)]
            name = f"{one.name}.{one.deciding}{'/' * bool(group)}{group}"
            told = "; ".join(_against(contest) for contest in lost) or "not worse than what it is compared with"
            yield Gate(f"{name} not worse", not lost, f"{name}: {told}")


def _is_lost(contest: Contest) -> bool:
    """True if the run lost: it is worse than another system, or another one is better."""
    return contest.verdict == ("worse" if contest.system == ADAPTER_NAME else "better") and ADAPTER_NAME in {
        contest.system,
        contest.against,
    }


def _against(contest: Contest) -> str:
    other = contest.against if contest.system == ADAPTER_NAME else contest.system
    return f"worse than {other} ({contest.reason})"
