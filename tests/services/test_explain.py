"""`explain`: planted causes get their names, and healthy runs get none."""

import pytest

pytest.importorskip("torch")

from planted_runs import HEALTHY, PLANTED, explained

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
