"""Watches of a training: each planted fault is named once with its numbers, and healthy or noisy runs are not."""

import random

import pytest

from lora_ns.objectives.watches import (
    WINDOW,
    EntropyCollapse,
    LengthCollapse,
    LengthHacking,
    LikelihoodDisplacement,
)

STEPS = 60


def told(watch, rows):
    """The warnings, with the number of the row after which each came."""
    return [(number, text) for number, row in enumerate(rows, start=1) if (text := watch.look(row))]


def series(start, end, noise=0.0, seed=0, steps=STEPS):
    draw = random.Random(seed)
    return [start + (end - start) * step / (steps - 1) + draw.gauss(0, noise) for step in range(steps)]


def preference(margins, chosen, rejected, prefix=""):
    names = [f"{prefix}{name}" for name in ("rewards/margins", "logps/chosen", "logps/rejected")]
    return [dict(zip(names, row, strict=True)) for row in zip(margins, chosen, rejected, strict=True)]


RISING = series(0, 3, 0.05)
DISPLACED = {
    "training rows": preference(RISING, series(-40, -60, 1, 1), series(-45, -95, 1, 2)),
    "evaluations": preference([0, 1.5], [-40, -52], [-45, -70], "eval_"),
}
HEALTHY = {
    "the chosen answer rises": preference(RISING, series(-40, -30, 1, 1), series(-45, -95, 1, 2)),
    "both rise": preference(RISING, series(-40, -20, 1, 1), series(-45, -35, 1, 2)),
    "margins stay": preference(series(0, 0, 0.05), series(-40, -60, 1, 1), series(-45, -65, 1, 2)),
    "a small fall": preference(RISING, series(-40, -42, 0.1, 1), series(-45, -95, 1, 2)),
    "noise": preference(RISING, series(-40, -40, 12, 1), series(-45, -45, 12, 2)),
    "one noisy step": preference([*RISING, 9], [*series(-40, -40, 1, 1), -400], [*series(-45, -45, 1, 2), -400]),
    "one evaluation": preference([1.5], [-52], [-70], "eval_"),
    "a small fall in evaluations": preference([0, 1.5], [-40, -43], [-45, -70], "eval_"),
}


@pytest.mark.parametrize("rows", DISPLACED.values(), ids=DISPLACED)
def test_likelihood_displacement_is_named_once_with_its_numbers(rows):
    ((number, text),) = told(LikelihoodDisplacement("raise `dpo.beta`"), rows)
    assert number < len(rows) or len(rows) == 2
    assert "`logps/chosen` -4" in text
    assert "`rewards/margins` 0" in text
    assert text.endswith("(raise `dpo.beta`)")


@pytest.mark.parametrize("rows", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_preference_run_is_not_named(rows):
    assert told(LikelihoodDisplacement("raise `dpo.beta`"), rows) == []


def test_numbers_of_evaluations_are_those_of_the_first_and_the_last():
    text = LikelihoodDisplacement("x")
    ((_, found),) = told(text, DISPLACED["evaluations"])
    assert found == (
        "held-out margins rise while both answers become less likely (likelihood displacement): `rewards/margins` "
        "0 to 1.5, `logps/chosen` -40 to -52, `logps/rejected` -45 to -70 (x)"
    )


def sampled(reward=None, length=None, entropy=None):
    given = {"reward": reward, "completions/mean_length": length, "entropy": entropy}
    columns = {name: values for name, values in given.items() if values}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


FLAT = series(1.0, 1.0, 0.05)
COLLAPSES = {
    "entropy": (EntropyCollapse, sampled(entropy=series(1.5, 0.02, 0.01)), "`entropy` 1.4"),
    "length": (LengthCollapse, sampled(length=series(200, 20, 4)), "`completions/mean_length` 1"),
}
KEPT = {
    "entropy halves": (EntropyCollapse, sampled(entropy=series(1.5, 0.7, 0.05))),
    "one step of no entropy": (EntropyCollapse, sampled(entropy=[*FLAT, 0.0])),
    "length halves": (LengthCollapse, sampled(length=series(200, 100, 5))),
    "short answers from the start": (LengthCollapse, sampled(length=series(3, 2, 0.1))),
    "few rows": (EntropyCollapse, sampled(entropy=[2.0] * WINDOW + [0.0] * (WINDOW - 1))),
    "not a number": (EntropyCollapse, [{"entropy": value} for value in (None, float("nan"), "x")] * 20),
}


@pytest.mark.parametrize(("kind", "rows", "numbers"), COLLAPSES.values(), ids=COLLAPSES)
def test_a_collapse_is_named_once_with_its_numbers(kind, rows, numbers):
    ((_, text),) = told(kind(), rows)
    assert numbers in text


@pytest.mark.parametrize(("kind", "rows"), KEPT.values(), ids=KEPT)
def test_no_collapse_is_none(kind, rows):
    assert told(kind(), rows) == []


LENGTHS = series(100, 300, 15)


def per_token(lengths, noise=0.02):
    """A reward of length alone."""
    draw = random.Random(7)
    return [length / 400 + draw.gauss(0, noise) for length in lengths]


HACKED = {
    "a reward of length": sampled(per_token(LENGTHS), LENGTHS),
    "without noise": sampled(per_token(series(100, 300), 0), series(100, 300)),
}
LEARNED = {
    "at a constant length": sampled(series(0.2, 0.8, 0.03), series(150, 150, 10, 3)),
    "with shorter answers": sampled(series(0.2, 0.8, 0.03), series(300, 100, 10, 3)),
    "beside longer answers": sampled(series(0.2, 0.8, 0.01), series(100, 300, 40, 3)),
    "no trend": sampled(per_token(series(150, 150, 20)), series(150, 150, 20)),
    "neither": sampled(series(0.5, 0.5, 0.05), series(150, 150, 10, 3)),
    "few rows": sampled(per_token(LENGTHS)[:29], LENGTHS[:29]),
    "falling together": sampled(series(1, 0), series(300, 100)),
    "constant": sampled([0.5] * STEPS, [100.0] * STEPS),
}


@pytest.mark.parametrize("rows", HACKED.values(), ids=HACKED)
def test_a_reward_of_length_is_named_once_with_its_numbers(rows):
    ((number, text),) = told(LengthHacking(), rows)
    assert number >= LengthHacking.rows
    assert "over 30 logged steps, `reward` 0." in text


@pytest.mark.parametrize("rows", LEARNED.values(), ids=LEARNED)
def test_a_reward_that_is_learned_is_not_named(rows):
    assert told(LengthHacking(), rows) == []


@pytest.mark.parametrize("seed", range(20))
def test_independent_noise_is_not_named(seed):
    draw = random.Random(seed)
    watches = (LengthHacking(), EntropyCollapse(), LengthCollapse(), LikelihoodDisplacement("x"))
    names = {name for watch in watches for name in watch.reads}
    rows = [{name: draw.gauss(10, 2) for name in sorted(names)} for _ in range(200)]
    assert [told(watch, rows) for watch in watches] == [[]] * 4
