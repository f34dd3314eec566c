"""The pre-flight of rewards: planted faults are named with their numbers, and healthy rewards are not."""

from collections.abc import Sequence
from itertools import count

import pytest

from lora_ns.rewards import REWARDS, Completion
from lora_ns.rewards.checks import Judge, check_with_answers, doubts, measure, reasons_against

ROWS = [Completion("", str(number), {}, f"What is {number} + 0? Is it 1?") for number in range(20)]


def judged(score, verifies=True, highest=1.0):
    return Judge("own", lambda batch: [score(given) for given in batch], verifies, highest)


def right(given: Completion) -> float:
    return float(given.text.strip() == given.answer)


TICKS = count()
PLANTED = {
    "healthy": (right, []),
    "dead": (lambda _: 0.0, [("REW001", 20, True)]),
    "saturated": (lambda _: 1.0, [("REW007", 0, True)]),
    "judging nothing": (lambda _: None, [("REW007", 0, False)]),
    "inverted": (lambda given: 1 - right(given), [("REW001", 20, True), ("REW002", 0, True), ("REW003", 0, True)]),
    "leaking": (lambda given: float(given.answer in given.text), [("REW004", 0, True)]),
    "empty is right": (lambda given: float(given.text in {"", given.answer}), [("REW003", 0, True)]),
    "noisy": (lambda given: right(given) if next(TICKS) % 40 < 20 else 0.5, [("REW005", 20, True)]),
    "partly broken": (lambda given: right(given) * (int(given.answer) > 4), [("REW001", 5, False)]),
}


@pytest.mark.parametrize(("score", "expected"), PLANTED.values(), ids=PLANTED)
def test_planted_faults_are_named_with_the_number_of_rows(score, expected):
    found = list(check_with_answers(judged(score), ROWS))
    known = {code: (len(fault.rows), fault.is_error) for fault in found if (code := fault.code)}
    for code, rows, is_error in expected:
        assert known.pop(code) == (rows, is_error)
    assert set(known) <= ({"REW006", "REW002", "REW004"} if expected else set())


def test_an_inverted_reward_is_named_also_if_it_verifies_nothing():
    found = list(check_with_answers(judged(lambda given: -right(given), verifies=False), ROWS))
    assert [fault.code for fault in found] == ["REW006"]


@pytest.mark.parametrize("name", ["exact", "number"])
def test_rewards_of_the_recipe_are_healthy(name):
    reward = REWARDS[name]()
    judge = Judge(name, lambda batch: [reward.score(given) for given in batch], reward.verifies, reward.highest)
    rows = [Completion("", row.answer, {}, f"Number {chr(97 + number)}?") for number, row in enumerate(ROWS)]
    assert list(check_with_answers(judge, rows)) == []


def test_rows_without_a_reference_answer_are_not_checked():
    assert list(check_with_answers(judged(lambda _: 1.0), [Completion("")])) == []


def signal(scores: Sequence[Sequence[float | None]], text="a", truncated=False):
    groups = [[Completion(text, prompt=f"p{number}") for _ in group] for number, group in enumerate(scores)]
    cut = [truncated for group in groups for _ in group]
    return measure(groups, [scores], ["own"], [1.0], cut, 8, [1.0])


MIXED = [[0.0, 1.0]] * 8 + [[1.0, 1.0]] * 6 + [[0.0, 0.0]] * 2


def test_the_signal_of_completions_is_counted():
    found = signal(MIXED)
    assert (found.prompts, found.completions, found.varied, found.per_step) == (16, 2, 8, 4.0)
    assert found.reward == pytest.approx(10 / 16)
    assert found.passed == pytest.approx(20 / 32)
    assert (len(found.solved), len(found.unsolved)) == (6, 2)
    assert list(reasons_against(found, 1.0)) == []
    assert list(doubts(found)) == []


@pytest.mark.parametrize(("score", "always", "never"), [(1.0, 4, 0), (0.0, 0, 4)])
def test_prompts_that_are_all_solved_or_all_unsolved_are_counted(score, always, never):
    found = signal([[score, score]] * 4)
    assert (len(found.solved), len(found.unsolved)) == (always, never)


HOPELESS = {
    "solved": ([[1.0, 1.0]] * 16, {}, "harder rows"),
    "never solved": ([[0.0, 0.0]] * 16, {}, "[sft]"),
    "all the same in each group": ([[0.0, 0.0], [1.0, 1.0]] * 8, {}, "temperature"),
    "never ended": ([[0.0, 0.0]] * 16, {"truncated": True}, "max_completion_length"),
    "not judged": ([[None, None]] * 16, {}, "None"),
    "not judged, of few prompts": ([[None, None]] * 2, {}, "None"),
}


@pytest.mark.parametrize(("scores", "more", "remedy"), HOPELESS.values(), ids=HOPELESS)
def test_a_run_that_cannot_learn_is_refused_with_what_to_change(scores, more, remedy):
    reasons = list(reasons_against(signal(scores, **more), 1.0))
    assert len(reasons) == 1
    assert remedy in " ".join(reasons[0])


def test_few_prompts_are_too_few_to_refuse_a_run():
    assert list(reasons_against(signal([[0.0, 0.0]] * 15), 1.0)) == []


def test_little_signal_and_cut_completions_are_doubted():
    assert "1 of 16" in " ".join(doubts(signal([[0.0, 1.0]] + [[1.0, 1.0]] * 15)))
    assert "100%" in " ".join(doubts(signal(MIXED, truncated=True)))


def test_completions_that_a_function_does_not_judge_do_not_count():
    found = signal([[None, 1.0], [0.0, 1.0]])
    assert found.rewards[0].unjudged == 1
    assert found.unscored == pytest.approx(1 / 4)
    assert found.reward == pytest.approx(2 / 3)
