"""A verdict names the state of a run, its number and the interval, from whatever the run has."""

import dataclasses
import math

import pytest
from minimal_recipe import MINIMAL
from reported_runs import LABELS, falling, suite

from lora_ns.report.curves import read_curves
from lora_ns.report.verdict import TONES, judge

FLAT = [{"step": step, "loss": 2.0 + 0.1 * (step % 2)} for step in range(1, 41)]
RISING = [{"step": step, "loss": 1.0 + 0.2 * step} for step in range(1, 41)]
BROKEN = [*FLAT, {"step": 41, "loss": math.nan}]


def verdict_on(run, suites=(), answers=()):
    return judge(run.read(), read_curves(run.metrics), suites, answers)


@pytest.mark.parametrize(
    ("metrics", "fields", "suites", "state", "told"),
    [
        (
            None,
            {},
            [suite()],
            "learned",
            "exact_match rose from 0.2 to 0.8 on 100 items (+60 points; 95 % interval +50",
        ),
        (None, {}, [suite("worse", 0.8, 0.2)], "worse", "exact_match fell from 0.8 to 0.2"),
        (RISING, {}, [suite("worse", 0.8, 0.2)], "diverged", "the training loss rose from"),
        (None, {}, [suite("cannot tell", 0.5, 0.51)], "learned", "the evaluation loss fell from 3 to 0.2"),
        (FLAT, {}, [suite("cannot tell", 0.5, 0.51)], "flat", "exact_match rose from 0.5 to 0.51"),
        (None, {}, [], "learned", "the evaluation loss fell from 3 to 0.2"),
        (FLAT, {}, [], "flat", "the training loss"),
        (RISING, {}, [], "diverged", "the training loss rose from"),
        (BROKEN, {}, [], "diverged", "loss is nan at step 41"),
        (
            FLAT,
            {"status": "failed", "error": "step 9: the gradient of `x` is nan (lower it)"},
            [],
            "diverged",
            "is nan",
        ),
        (None, {"status": "failed", "error": "disk full"}, [], "failed", "after step 40"),
        (None, {"status": "interrupted", "error": "stopped"}, [], "interrupted", "after step 40"),
        (None, {"status": "running"}, [], "running", "at step 40"),
        ([], {}, [], "flat", "nothing was measured"),
        ([], {"status": "failed", "error": "no rows"}, [], "failed", "after step 0"),
    ],
)
def test_the_state_of_a_run_and_what_says_so(make_run, metrics, fields, suites, state, told):
    found = verdict_on(make_run(metrics, **fields), suites)
    assert (found.state, found.tone) == (state, TONES[state])
    assert found.sentence.startswith(state.capitalize())
    assert told in found.sentence
    assert found.sentence.endswith(".")


@pytest.mark.parametrize(
    ("metrics", "state", "told"),
    [
        ({"eval_accuracy": 0.9, "baseline/eval_accuracy": 0.5}, "learned", "95 % interval 0.826 to 0.945"),
        (
            {"eval_accuracy": 0.5, "baseline/eval_accuracy": 0.5},
            "flat",
            "no better than that of a constant answer",
        ),
        ({"eval_accuracy": 0.55, "baseline/eval_accuracy": 0.5}, "flat", "a constant answer: 0.5"),
        ({"eval_pearson": 0.8}, "learned", "95 % interval 0.716 to 0.861"),
        ({"eval_f1": 0.8}, "learned", "f1 is 0.8"),
    ],
)
def test_labels_are_measured_against_a_constant_answer(make_run, metrics, state, told):
    run = make_run([], LABELS, metrics=metrics, problem_type="single_label_classification")
    found = verdict_on(run)
    assert (found.state, told in found.sentence) == (state, True)


IDLE = {"eval_accuracy": 0.5, "baseline/eval_accuracy": 0.5}
NOISY = {"eval_loss_low": 2.0, "eval_loss_high": 4.0}
PAIRS = MINIMAL.replace("[peft]", "[dpo]\nmax_seq_length = 64\n[peft]").replace("[sft]\nmax_seq_length = 64\n", "")


@pytest.mark.parametrize(
    ("predicted", "state"),
    [("a" * 40, "collapsed"), ("ab" * 20, "flat"), ("", "flat")],
)
def test_a_classifier_that_learned_nothing_has_collapsed_only_if_it_always_says_the_same(make_run, predicted, state):
    run = make_run([], LABELS, metrics=IDLE, problem_type="single_label_classification")
    found = verdict_on(run, answers=list(zip("ba" * 20, predicted, strict=False)))
    assert (found.state, "no better than that of a constant" in found.sentence) == (state, True)


@pytest.mark.parametrize(
    ("last", "state", "told"),
    [
        ({"eval_loss": 2.8, "eval_loss_low": 2.7, "eval_loss_high": 2.9}, "learned", "95 % interval -0.3 to -0.1"),
        ({"eval_loss": 2.8, "eval_loss_low": 2.5, "eval_loss_high": 3.1}, "flat", "95 % interval -0.5 to +0.1"),
        ({"eval_loss": 3.2, "eval_loss_low": 3.1, "eval_loss_high": 3.3}, "diverged", "rose from 3 to 3.2"),
        ({"eval_loss": 2.8}, "learned", "fell from 3 to 2.8 (-0.2)"),
    ],
)
def test_an_evaluation_loss_has_moved_only_beyond_its_interval(make_run, last, state, told):
    found = verdict_on(make_run([{"step": 0, "eval_loss": 3.0, **NOISY}, {"step": 9, **last}]))
    assert (found.state, told in found.sentence) == (state, True), found.sentence


@pytest.mark.parametrize(("share", "state"), [(0.9, "learned"), (0.55, "flat"), (0.2, "worse")])
def test_preferences_are_judged_by_the_pairs_that_are_ranked_right(make_run, share, state):
    rows = [{"step": step, "eval_rewards/accuracies": value} for step, value in ((0, 0.0), (9, share))]
    found = verdict_on(make_run(rows, PAIRS))
    assert (found.state, f"the share of pairs ranked right is {share} on 100 items" in found.sentence) == (state, True)


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([(str(number), "the") for number in range(40)], "collapsed"),
        ([(str(number), "") for number in range(40)], "collapsed"),
        ([("yes", "yes")] * 40, "learned"),
        ([(str(number), "the") for number in range(19)], "learned"),
        ([(str(number), str(number % 3)) for number in range(40)], "learned"),
    ],
)
def test_a_model_that_always_says_the_same_has_collapsed(make_run, answers, state):
    assert verdict_on(make_run(), answers=answers).state == state


def test_nothing_is_said_twice(make_run):
    error = "step 9: the gradient of `x` is nan (lower it)"
    found = verdict_on(make_run(FLAT, status="failed", error=error))
    assert (found.state, error in found.sentence) == ("diverged", True)
    assert not any("gradient" in reason for reason in found.reasons)


def test_a_sentence_that_names_two_changes_has_neither_as_a_reason(make_run):
    rows = [{"step": step, "eval_rewards/accuracies": 0.9} for step in (0, 9)]
    told = verdict_on(make_run(rows, PAIRS), [suite("cannot tell", 0.5, 0.51)])
    assert "pairs ranked right" in told.sentence
    assert "exact_match" in told.sentence
    assert told.reasons == ()


def test_the_error_of_a_run_is_a_reason_without_its_secrets(make_run):
    secret = "hf_" + "a1B2" * 8
    found = verdict_on(make_run(status="failed", error=f"refused: {secret}"))
    assert found.reasons[0] == "Refused: ***"
    assert secret not in str(dataclasses.asdict(found))


@pytest.mark.parametrize("damage", [{"whole": {}}, {"whole": {"figures": {}, "contests": []}}, {}, {"whole": None}])
def test_a_damaged_record_decides_nothing(make_run, damage):
    assert verdict_on(make_run(falling()), [damage]).sentence.startswith("Learned: the evaluation loss")
