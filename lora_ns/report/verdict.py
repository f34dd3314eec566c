"""The state of a run in one sentence, with the number that says so and its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_ns.report.curves import Curves, Series
from lora_ns.run.manifest import Manifest
from lora_ns.safety.credentials import scrubbed
from lora_ns.statistics.interval import wilson
from lora_ns.statistics.wording import amount, p_text

State = Literal["learned", "flat", "worse", "diverged", "collapsed", "interrupted", "failed", "running"]


TONES: Mapping[State, str] = {
    "learned": "good",
    "flat": "wait",
    "worse": "bad",
    "diverged": "bad",
    "collapsed": "bad",
    "interrupted": "wait",
    "failed": "bad",
    "running": "plain",
}
"""Tone of each state, for `page.badge`."""


FLAT = 0.02
"""Relative change of a loss below which it counts as flat."""


SAME_ANSWER = 0.9
"""Share of the answers that are one text, from which a model counts as collapsed."""


CHANCE = 0.5
"""Share of pairs that a model ranks right which knows nothing of the preference."""


@dataclass(frozen=True)
class Change:
    """A figure before and after, or at the start and at the end of training."""

    name: str
    before: float | None
    after: float
    low: float | None = None
    """Lower end of the 95 % interval of the difference, or of `after` if there is nothing before."""
    high: float | None = None
    items: int | None = None
    """Items or logged values behind the figure; None if it is not known."""
    how: str = ""
    """Test or interval, such as `exact McNemar, p < 0.001`."""
    verdict: Literal["better", "worse", "cannot tell"] = "cannot tell"
    in_points: bool = False
    """True if differences are shares, shown in hundredths."""

    @property
    def told(self) -> str:
        """The change as a clause: `exact_match rose from 0.12 to 0.87 on 200 items (+75 points, 95 % interval ...)`."""
        items = f" on {self.items:,} items" if self.items and self.is_measured else ""
        if self.before is None:
            return f"{self.name} is {_shown(self.after)}{items}{_bracketed(self._interval(_shown), self.how)}"
        if self.after == self.before:
            return f"{self.name} stayed at {_shown(self.after)}{items}{_bracketed(self.how)}"
        verb = "rose" if self.after > self.before else "fell"
        moved = self._amount(self.after - self.before)
        facts = _bracketed(moved, self._interval(self._amount), self.how)
        return f"{self.name} {verb} from {_shown(self.before)} to {_shown(self.after)}{items}{facts}"

    def _amount(self, difference: float) -> str:
        return amount(difference, "points" if self.in_points else "", signed=True)

    def _interval(self, shown: Callable[[float], str]) -> str:
        if self.low is None or self.high is None:
            return ""
        return f"95 % interval {shown(self.low).removesuffix(' points')} to {shown(self.high)}"

    @property
    def is_measured(self) -> bool:
        """True for a figure of items, False for the mean of logged values."""
        return not self.name.startswith("the training loss")


@dataclass(frozen=True)
class Verdict:
    """The state of a run."""

    state: State
    sentence: str
    """Complete in itself, such as `Learned: exact_match rose from ...`."""
    reasons: tuple[str, ...] = ()
    """More sentences: why it stopped, what else changed."""
    change: Change | None = None
    """The figure that decides; None if nothing was measured."""

    @property
    def is_trouble(self) -> bool:
        """True for a state whose cause `lorans explain` looks for."""
        return self.state in {"flat", "diverged", "collapsed"}

    @property
    def tone(self) -> str:
        """Tone of the state, for `page.badge`."""
        return TONES[self.state]


def judge(
    manifest: Manifest,
    curves: Curves,
    suites: Sequence[Mapping[str, Any]] = (),
    answers: Sequence[tuple[str, str]] = (),
) -> Verdict:
    """Judge a run.

    Args:
        manifest: the manifest.
        curves: the logged series.
        suites: suites of an evaluation's `results.json` in which training is compared with before; empty if none is.
        answers: expected answers with those of the trained model, if they are known.
    """
    changes = _changes(manifest, curves, suites)
    first = changes[0] if changes else None
    state, why = _state(manifest, curves, changes, answers)
    step, steps = curves.last_step, manifest.plan.max_steps.value
    where = f"step {step:,} of {steps:,}" if steps else f"step {step:,}"
    told = why or (first.told if first else "nothing was measured")
    if state in {"interrupted", "failed", "running"}:
        preposition = "at" if state == "running" else "after"
        so_far = f"; so far {first.told}" if first else ""
        sentence = f"{state.capitalize()} {preposition} {where}{so_far}."
    else:
        sentence = f"{state.capitalize()}: {told}."
    others = [change.told for change in changes[1:3]] + ([first.told] if why and first else [])
    error = manifest_error(manifest)
    reasons = [*([error] if error and error != why else []), *(f"{one}." for one in others if one not in why)]
    return Verdict(state, sentence, tuple(f"{one[:1].upper()}{one[1:]}" for one in reasons), first)


def manifest_error(manifest: Manifest) -> str:
    """Return the error that a run has recorded, without secrets."""
    return scrubbed(manifest.error or "")


def _state(
    manifest: Manifest, curves: Curves, changes: Sequence[Change], answers: Sequence[tuple[str, str]]
) -> tuple[State, str]:
    """The state, and its reason if that is not the first change."""
    if broken := _not_finite(curves) or _broken_by(manifest):
        return "diverged", broken
    if manifest.status in ("interrupted", "failed"):
        return manifest.status, ""
    if manifest.status != "finished":
        return "running", ""
    if idle := _no_better_than_constant(manifest):
        same = _same_answer(answers, expected_below=SAME_ANSWER)
        return ("collapsed", f"{same}; {idle}") if same else ("flat", idle)
    if same := _same_answer(answers):
        return "collapsed", same
    return _moved(changes)


def _moved(changes: Sequence[Change]) -> tuple[State, str]:
    """The state of a finished run by its changes: the first decides, unless it cannot tell and another can."""
    verdicts = [change.verdict for change in changes]
    up = next((one.told for one in changes if one.verdict == "worse" and one.name.endswith("loss")), "")
    if verdicts[:1] == ["better"]:
        return "learned", ""
    if up:
        return "diverged", up
    if verdicts[:1] == ["worse"]:
        return "worse", ""
    if "better" in verdicts:
        return "learned", f"{changes[verdicts.index('better')].told}; {changes[0].told}"
    return "flat", ""


def _not_finite(curves: Curves) -> str:
    for name in ("loss", "eval_loss"):
        series = curves[name]
        for step, value in zip(series.steps, series.values, strict=True):
            if not math.isfinite(value):
                return f"{name} is {value} at step {step:,}"
    return ""


def _broken_by(manifest: Manifest) -> str:
    """The first line of an error that says that loss or gradient is not finite."""
    line = manifest_error(manifest).split("\n", 1)[0]
    return line if manifest.status == "failed" and (" is nan" in line or " is inf" in line) else ""


def _same_answer(answers: Sequence[tuple[str, str]], expected_below: float = SAME_ANSWER / 2) -> str:
    """A sentence about answers that are nearly all one text, if less than this share of the expected ones are."""
    if len(answers) < 20:
        return ""
    given, expected = _most_common(got for _, got in answers), _most_common(want for want, _ in answers)
    share, text = given
    if share < SAME_ANSWER or expected[0] >= expected_below:
        return ""
    shown = "empty" if not text.strip() else f"`{text[:60]}`"
    return f"{share:.0%} of {len(answers):,} answers are {shown}".replace("%", " %")


def _most_common(texts: Any) -> tuple[float, str]:
    counts: dict[str, int] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    text = max(counts, key=counts.__getitem__)
    return counts[text] / sum(counts.values()), text


def _no_better_than_constant(manifest: Manifest) -> str:
    """A sentence about a classifier whose accuracy is not above that of its most frequent class."""
    metrics = manifest.metrics
    reached, constant = _number(metrics.get("eval_accuracy")), _number(metrics.get("baseline/eval_accuracy"))
    if reached is None or constant is None or reached > constant:
        return ""
    return f"accuracy is {_shown(reached)}, no better than that of a constant answer ({_shown(constant)})"


def _changes(manifest: Manifest, curves: Curves, suites: Sequence[Mapping[str, Any]]) -> list[Change]:
    """What is known, the most telling first: paired tests, figures of the evaluation rows, losses."""
    found = [change for suite in suites for change in [tested(suite)] if change]
    found += [change for change in (_label_figure(manifest), _pairs(manifest, curves), _reward(curves)) if change]
    if not manifest.recipe.objective.generates:
        found += [change for change in (_eval_loss(curves), _training_loss(curves)) if change]
    return found


def tested(suite: Mapping[str, Any]) -> Change | None:
    """The paired test of a suite's deciding figure; None if nothing is compared, or the record is damaged."""
    try:
        whole = suite["whole"]
        name = next(iter(whole["figures"]))
        contest = next(one for one in whole["contests"] if one["figure"] == name)
        figures = whole["figures"][name]
        before, after = figures[contest["against"]]["value"], figures[contest["system"]]["value"]
        if _number(before) is None or _number(after) is None:
            return None
        return Change(
            name if _plain(suite["name"]) in {_plain(name), "", "heldout"} else f"{suite['name']} {name}",
            before,
            after,
            _number(contest["low"]),
            _number(contest["high"]),
            whole["items"],
            f"{contest['test']}, {p_text(contest['p_value'])}" if contest["test"] != "none" else "",
            contest["verdict"],
            name in suite.get("shares", ()),
        )
    except (KeyError, TypeError, StopIteration, AttributeError):
        return None


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "")


def _label_figure(manifest: Manifest) -> Change | None:
    """The accuracy, F1 or correlation of a run with labels, against the best constant answer."""
    rows = manifest.data.eval.rows if manifest.data.eval else 0
    for name in ("accuracy", "f1", "pearson"):
        value, constant = (_number(manifest.metrics.get(f"{kind}eval_{name}")) for kind in ("", "baseline/"))
        if value is None or manifest.problem_type is None:
            continue
        low, high = _interval(name, value, rows)
        floor = 0.0 if constant is None else constant
        verdict: Any = "better" if low is not None and low > floor else "cannot tell"
        if low is None and value > floor:
            verdict = "better"
        how = "" if constant is None else f"a constant answer: {_shown(constant)}"
        return Change(name, None, value, low, high, rows or None, how, verdict)
    return None


def _interval(name: str, value: float, rows: int) -> tuple[float | None, float | None]:
    """The 95 % interval of an accuracy (Wilson) or a correlation (Fisher 1915); none for other figures."""
    if name == "accuracy" and rows:
        found = wilson(value, rows)
        return found.low, found.high
    if name == "pearson" and rows > 3 and abs(value) < 1:
        middle, half = math.atanh(value), 1.96 / math.sqrt(rows - 3)
        return math.tanh(middle - half), math.tanh(middle + half)
    return None, None


def _pairs(manifest: Manifest, curves: Curves) -> Change | None:
    """The share of evaluation pairs whose preferred answer is ranked higher, against chance; else the margin."""
    objective = manifest.recipe.objective
    name = next((one for one in ("rewards/accuracies", "accuracy") if objective.shows.get(one) == "pairs right"), "")
    series = curves[f"eval_{name}"].finite
    after_start = [value for step, value in zip(series.steps, series.values, strict=True) if step]
    rows = manifest.data.eval.rows if manifest.data.eval else 0
    if not after_start or not rows or not 0 <= after_start[-1] <= 1:
        return _quarters(curves["rewards/margins"], "the margin of preferred answers", higher_is_better=True)
    found = wilson(after_start[-1], rows)
    verdict: Any = "better" if found.low > CHANCE else "worse" if found.high < CHANCE else "cannot tell"
    told = "the share of pairs ranked right"
    return Change(told, None, after_start[-1], found.low, found.high, rows, f"chance: {CHANCE}", verdict)


def _reward(curves: Curves) -> Change | None:
    """The reward of the first quarter of a run against that of the last."""
    return _quarters(curves["reward"], "the reward", higher_is_better=True)


def _eval_loss(curves: Curves) -> Change | None:
    """The evaluation loss, first against last, with the interval of the last one, on the same rows as the first."""
    series = curves["eval_loss"].finite
    if len(series) < 2:
        return None
    before, after = series.values[0], series.values[-1]
    moved = (after - before) / max(abs(before), 1e-12)
    low, high = (ends[-1] for ends in curves.ends("eval_loss"))
    is_noise = abs(moved) <= FLAT or (low is not None and high is not None and low <= before <= high)
    verdict: Any = "cannot tell" if is_noise else "better" if moved < 0 else "worse"
    least, most = (None if end is None else end - before for end in (low, high))
    return Change("the evaluation loss", before, after, least, most, verdict=verdict)


def _training_loss(curves: Curves) -> Change | None:
    return _quarters(curves["loss"], "the training loss", higher_is_better=False)


def _quarters(series: Series, name: str, higher_is_better: bool) -> Change | None:
    """The mean of the first quarter of a series against that of the last, with Welch's interval of their difference."""
    first, last = series.part(0, 0.25), series.part(0.75, 1)
    if len(series.finite) < 2:
        return None
    before, after = _mean(first), _mean(last)
    if len(first) < 3 or len(last) < 3:
        return Change(name, before, after, items=len(series))
    error = math.sqrt(_variance(first) / len(first) + _variance(last) / len(last))
    low, high = after - before - 1.96 * error, after - before + 1.96 * error
    moves = (low > 0 or high < 0) and abs(after - before) > FLAT * max(abs(before), 1e-12)
    verdict: Any = ("better" if (after > before) == higher_is_better else "worse") if moves else "cannot tell"
    return Change(name, before, after, low, high, len(series), "first and last quarter", verdict)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    middle = _mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _bracketed(*facts: str) -> str:
    told = "; ".join(fact for fact in facts if fact)
    return f" ({told})" if told else ""


def _shown(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
