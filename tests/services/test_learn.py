"""`validate --learn`: healthy recipes are certified, and planted defects get their names."""

import pytest

pytest.importorskip("torch")

from lessons import HEALTHY, PLANTED, certify, name_of

QUICK = ("end token masked as pad", "other template at inference", "no gradients", "nano, LoRA, ChatML")
"""Cases outside the matrix."""


def cases(table):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.matrix) for name in table]


@pytest.mark.parametrize("name", cases(PLANTED))
def test_a_planted_defect_gets_its_name(tmp_path, name):
    assert name_of(tmp_path, PLANTED[name]) == PLANTED[name].code


@pytest.mark.parametrize("name", cases(HEALTHY))
def test_a_healthy_recipe_is_certified(tmp_path, name):
    found = certify(tmp_path, HEALTHY[name])
    assert (found.passed, found.cause) == (True, None)
    assert found.trial.right == len(found.rows) == 8
