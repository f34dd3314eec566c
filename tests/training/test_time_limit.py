"""The time limit: a run stops early enough for what its end does, and never in the middle of a step."""

import pytest

from lora_ns.recipe.training import seconds_of
from lora_ns.run.manifest import IN_TIME
from lora_ns.training.time_limit import MARGIN, SAVES, TimeLimit, timing


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("2h30m", 9000), ("1d2h", 93_600), ("1h0m5s", 3605)]
)
def test_a_duration_is_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("save", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("evaluation", [None, 0.0, 20.0])
def test_whatever_the_parts_take_the_end_is_within_the_limit(clock, save, evaluation):
    limit = TimeLimit(200, evaluates=evaluation is not None, clock=clock)
    with timing(limit, "loading"):
        clock.now += 5
    steps = 0
    while limit.allows_a_step():
        clock.now += 2
        steps += 1
        limit.steps.append(2)
        if steps == 2:
            limit.save, limit.evaluation = save, evaluation
            clock.now += save + (evaluation or 0)
    stopped = clock.now
    clock.now += SAVES * save + (evaluation or 0) + limit.loading
    assert clock.now <= 200
    assert stopped + 2 * 2 + MARGIN * (SAVES * save + (evaluation or 0) + 5) > 200, "nor earlier than it has to"


def test_a_slow_first_step_is_forgotten(clock):
    limit = TimeLimit(1000, clock=clock)
    limit.steps.append(600)
    for _ in range(20):
        limit.steps.append(1)
    assert limit.step == 1


def test_the_reason_names_step_and_limit(clock):
    limit = TimeLimit(7200, clock=clock)
    limit.loading = 10
    assert limit.reason(120, 2000) == (
        f"{IN_TIME}stopped after step 120 of 2,000, because of `max_time` (7,200 s, 38 s of it kept for the end)"
    )


def test_without_a_limit_nothing_is_timed():
    with timing(None, "loading"):
        pass
