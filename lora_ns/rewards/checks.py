"""Checks of reward functions before training: with known answers, and with a model's own completions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev

from lora_ns.rewards.base import Completion

Score = Callable[[Sequence[Completion]], Sequence[float | None]]

MOST_ROWS = 64
"""Rows whose reference answers are scored."""

OFTEN = 0.5
"""Share of wrong answers with the highest score from which a reward counts as broken, instead of as noted."""

RARELY = 0.05
"""Share of other rows' answers with the highest score that is not reported: some questions have the same answer."""


@dataclass(frozen=True)
class Fault:
    """A fault of a reward function."""

    code: str
    what: str
    remedy: str
    rows: tuple[int, ...] = ()
    """Positions of the rows concerned."""
    is_error: bool = True


@dataclass(frozen=True)
class Judge:
    """A reward function that is ready to be checked."""

    name: str
    score: Score
    verifies: bool
    highest: float


def check_with_answers(judge: Judge, rows: Sequence[Completion]) -> Iterator[Fault]:
    """Score the reference answers of rows, those of other rows, empty completions and the prompts themselves.

    Args:
        judge: the reward function.
        rows: completions without text; those without a reference answer are left out.
    """
    known = [number for number, row in enumerate(rows) if row.answer is not None and row.answer.strip()][:MOST_ROWS]
    if not known:
        return
    gold = [replace(rows[number], text=rows[number].answer or "") for number in known]
    others = _of_other_rows(gold)
    scores = _Scored(
        right=judge.score(gold),
        again=judge.score(gold),
        other=judge.score(others),
        empty=judge.score([replace(row, text="") for row in gold]),
        echo=judge.score([replace(row, text=row.prompt) for row in gold]),
    )
    yield from _unstable(judge, scores, known)
    if all(score is None for score in scores.all):
        yield Fault("REW007", f"`{judge.name}` judges no completion", "return numbers instead of None", (), False)
        return
    if constant := _constant(judge, scores):
        yield constant
        return
    if judge.verifies:
        yield from _of_verifier(judge, scores, known)
    right, other = _mean(scores.right), _mean(scores.other)
    if right is not None and other is not None and right < other:
        what = f"`{judge.name}` gives reference answers {right:.3g} and those of other rows {other:.3g}: it is inverted"
        yield Fault("REW006", what, "turn its sign, or give it a negative `weight`")


@dataclass(frozen=True)
class _Scored:
    right: Sequence[float | None]
    again: Sequence[float | None]
    other: Sequence[float | None]
    empty: Sequence[float | None]
    echo: Sequence[float | None]

    @property
    def all(self) -> Sequence[float | None]:
        return (*self.right, *self.other, *self.empty, *self.echo)


def _of_other_rows(gold: Sequence[Completion]) -> list[Completion]:
    """Each row with the answer of the next row that has another one; its own if all are the same."""
    found = []
    for number, row in enumerate(gold):
        ahead = (gold[(number + step) % len(gold)].text for step in range(1, len(gold)))
        found.append(replace(row, text=next((text for text in ahead if text.strip() != row.text.strip()), row.text)))
    return [row for row, own in zip(found, gold, strict=True) if row.text != own.text]


def _unstable(judge: Judge, scores: _Scored, known: Sequence[int]) -> Iterator[Fault]:
    rows = [row for row, first, second in zip(known, scores.right, scores.again, strict=True) if first != second]
    if rows:
        again = f"for {len(rows)} of {len(known)} rows"
        what = f"`{judge.name}` gives the same completion another score the second time, {again}"
        yield Fault("REW005", what, "make it depend on prompt and completion alone", tuple(rows))


def _constant(judge: Judge, scores: _Scored) -> Fault | None:
    """The fault of a function that gives the same positive score to everything."""
    found = set(scores.all)
    if len(found) != 1 or not (only := next(iter(found))):
        return None
    what = f"`{judge.name}` gives {only:.3g} to every completion, even to an empty one, so it teaches nothing"
    return Fault("REW007", what, "correct or remove it")


def _of_verifier(judge: Judge, scores: _Scored, known: Sequence[int]) -> Iterator[Fault]:
    wrong = [row for row, score in zip(known, scores.right, strict=True) if not _is_full(judge, score)]
    if wrong:
        share = f"for {len(wrong)} of {len(known)} rows"
        what = f"`{judge.name}` does not give the reference answer its highest score, {share}"
        remedy = "correct the answers, or the settings of the reward: no completion can be right there"
        yield Fault("REW001", what, remedy, tuple(wrong), len(wrong) == len(known))
    for code, part, which, limit in (
        ("REW002", scores.other, "the reference answers of other rows", RARELY),
        ("REW003", scores.empty, "empty completions", 0.0),
        ("REW004", scores.echo, "completions that repeat the prompt", 0.0),
    ):
        full = sum(_is_full(judge, score) for score in part)
        if part and full / len(part) > limit:
            what = f"`{judge.name}` gives the highest score to {which}, for {full} of {len(part)} rows"
            is_error = full / len(part) > OFTEN
            yield Fault(code, what, "compare with the whole answer, so that only a right one is rewarded", (), is_error)


def _is_full(judge: Judge, score: float | None) -> bool:
    return score is not None and score >= judge.highest


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


# Completions of the model


FEWEST_GROUPS = 16
"""Groups of completions below which nothing is refused."""

LEAST_SHARE = 0.1
"""Share of groups whose rewards differ below which a warning says that most of the computation is wasted."""


@dataclass(frozen=True)
class RewardReport:
    """The scores of one reward function."""

    name: str
    mean: float | None
    """None if it judged no completion."""
    std: float | None
    lowest: float | None
    highest: float | None
    unjudged: int


@dataclass(frozen=True)
class Signal:
    """The rewards of the completions of some prompts, before the first step."""

    prompts: int
    completions: int
    """Completions of each prompt."""
    rewards: tuple[RewardReport, ...]
    reward: float | None
    """Mean reward."""
    reward_std: float | None
    varied: int
    """Prompts whose completions have different rewards, so that something is learned from them."""
    per_step: float
    """Prompts of a step from which something is learned, as expected from these."""
    truncated: float
    empty: float
    unscored: float
    """Share of completions that no reward function judges."""
    passed: float | None = None
    """Share of completions with the highest score of each reward that verifies; None if none does."""
    solved: tuple[str, ...] = ()
    """Prompts whose completions all have the highest reward."""
    unsolved: tuple[str, ...] = ()
    """Prompts whose completions all have the lowest reward."""
    means: tuple[float, ...] = field(default=(), repr=False)
    """Mean reward of each prompt."""

    @property
    def share(self) -> float:
        """Share of prompts from which something is learned."""
        return self.varied / self.prompts if self.prompts else 0.0


def measure(
    groups: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[Sequence[float | None]]],
    names: Sequence[str],
    weights: Sequence[float],
    truncated: Sequence[bool],
    prompts_per_step: int,
    highest: Sequence[float | None] = (),
) -> Signal:
    """Summarise the scores of completions.

    Args:
        groups: the completions of each prompt.
        scores: for each reward function, the scores of each group.
        names: names of the functions.
        weights: their weights.
        truncated: for all completions in order, True if it has no end.
        prompts_per_step: prompts of an optimizer step.
        highest: for each reward function that verifies, its highest score; None for the others.
    """
    totals = [
        [_total([part[number][place] for part in scores], weights) for place in range(len(group))]
        for number, group in enumerate(groups)
    ]
    flat = [total for group in totals for total in group if total is not None]
    varied = [len({round(total, 6) for total in group if total is not None}) > 1 for group in totals]
    texts = [completion.text for group in groups for completion in group]
    top, bottom = (max(flat), min(flat)) if flat else (0.0, 0.0)
    same = [(group[0], totals[number][0]) for number, group in enumerate(groups) if not varied[number] and group]
    count, passed = len(texts) or 1, _passed(scores, highest)
    return Signal(
        prompts=len(groups),
        completions=max(map(len, groups), default=0),
        rewards=tuple(
            _report(name, [one for group in part for one in group]) for name, part in zip(names, scores, strict=True)
        ),
        reward=fmean(flat) if flat else None,
        reward_std=pstdev(flat) if flat else None,
        varied=sum(varied),
        per_step=prompts_per_step * sum(varied) / len(groups) if groups else 0.0,
        truncated=sum(truncated) / count,
        empty=sum(not text.strip() for text in texts) / count,
        unscored=1 - len(flat) / count,
        passed=passed,
        solved=tuple(row.prompt for row, total in same if total == top and (top > bottom or passed == 1)),
        unsolved=tuple(row.prompt for row, total in same if total == bottom and (top > bottom or passed == 0)),
        means=tuple(fmean(known) for group in totals if (known := [one for one in group if one is not None])),
    )


def _passed(scores: Sequence[Sequence[Sequence[float | None]]], highest: Sequence[float | None]) -> float | None:
    """Share of completions that every verifying function gives its highest score; None without such a function."""
    judged = [(part, best) for part, best in zip(scores, highest, strict=False) if best is not None]
    if not judged:
        return None
    of_functions = [[one is not None and one >= best for group in part for one in group] for part, best in judged]
    passed = [all(found) for found in zip(*of_functions, strict=True)]
    return fmean(passed) if passed else None


def _total(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted sum of the scores of a completion, as TRL computes it; None if no function judges it."""
    known = [(score, weight) for score, weight in zip(scores, weights, strict=True) if score is not None]
    return sum(score * weight for score, weight in known) if known else None


def _report(name: str, scores: Sequence[float | None]) -> RewardReport:
    known = [score for score in scores if score is not None]
    if not known:
        return RewardReport(name, None, None, None, None, len(scores))
    return RewardReport(name, fmean(known), pstdev(known), min(known), max(known), len(scores) - len(known))


def reasons_against(signal: Signal, best: float) -> Iterator[tuple[str, str]]:
    """Reasons why a run cannot learn, each with what to change.

    Args:
        signal: the rewards before the first step.
        best: the highest possible reward.
    """
    seen = f"{signal.prompts} prompts with {signal.completions} completions each"
    if signal.reward is None and signal.prompts:
        yield f"no reward function judges any completion of {seen}", "return numbers instead of None"
    if signal.reward is None or signal.varied or signal.prompts < FEWEST_GROUPS:
        return
    if signal.truncated == 1:
        yield f"no completion of {seen} has an end", "raise `max_completion_length`"
    elif signal.reward >= best:
        yield (
            f"every completion of {seen} has the highest reward, {signal.reward:.3g}",
            "use harder rows: nothing is left to learn",
        )
    elif signal.reward_std == 0:
        yield (
            f"every completion of {seen} has the same reward, {signal.reward:.3g}",
            "use easier rows, or teach the task with `[sft]` first; "
            "more `num_generations` or a higher `temperature` may help",
        )
    else:
        yield (
            f"the completions of each prompt have the same reward, for all of {seen}",
            "raise `temperature` or `num_generations`, so that the completions of a prompt differ",
        )


def doubts(signal: Signal) -> Iterator[str]:
    """Warnings about rewards from which little is learned."""
    if signal.prompts and 0 < signal.share < LEAST_SHARE:
        yield (
            f"the rewards differ for {signal.varied} of {signal.prompts} prompts only, so most of the computation "
            "teaches nothing: raise `temperature` or `num_generations`, or use rows that the model solves sometimes"
        )
    if signal.truncated > OFTEN:
        yield f"{signal.truncated:.0%} of completions have no end: raise `max_completion_length`"
    for report in signal.rewards:
        if report.mean is None:
            yield f"the reward `{report.name}` judges no completion"
        elif report.std == 0 and signal.prompts * signal.completions > 1 and len(signal.rewards) > 1:
            yield f"the reward `{report.name}` is {report.mean:.3g} for every completion, so it teaches nothing yet"
