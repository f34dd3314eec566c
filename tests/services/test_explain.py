"""`explain`: planted causes get their names, and healthy runs get none."""

import pytest

pytest.importorskip("torch")

from planted_runs import HEALTHY, PLANTED, explained

from lora_ns.run.observer import SilentObserver
from lora_ns.services.explain.explain import _Search
from lora_ns.services.explain.replay import Course
from lora_ns.services.explain.trouble import Trouble

QUICK = ("text, rate 3",)
"""Cases outside the matrix."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.matrix) for name in PLANTED]
)
def test_a_planted_cause_gets_its_name(tmp_path, name):
    found = explained(tmp_path, PLANTED[name])
    assert found.cause, found
    assert found.cause.code in PLANTED[name].codes, found


@pytest.mark.matrix
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_has_nothing_to_explain(tmp_path, name):
    assert explained(tmp_path, HEALTHY[name]).trouble is None


def test_a_replay_that_breaks_in_its_first_step_has_risen_without_bound():
    search = _Search(window=None, trouble=Trouble("diverged", 0, "", 0), observer=SilentObserver())
    broken = Course(broken="step 1: loss is nan")
    assert search._repeats(broken)
    assert not search._cures(broken)(broken)
    assert search._cures(broken)(Course(losses=(1.0, 0.9)))
