"""Calibration of reward models, on margins whose answer is known."""

import math

import pytest

from lora_ns.objectives.calibration import BINS, calibration


def margin_of(probability):
    return math.log(probability / (1 - probability))


def margins(confidence, right, wrong):
    return [margin_of(confidence)] * right + [-margin_of(confidence)] * wrong


CASES = {
    "calibrated": (margins(0.8, 8, 2) + margins(0.6, 6, 4), 0.0, 0.5 * 0.16 + 0.5 * 0.24),
    "overconfident": (margins(0.9, 6, 4), 0.3, 0.6 * 0.01 + 0.4 * 0.81),
    "underconfident": (margins(0.55, 10, 0), 0.45, 0.45**2),
    "always wrong": (margins(0.7, 0, 5), 0.7, 0.49),
    "no opinion": ([0.0] * 4, 0.0, 0.25),
    "certain": ([1000.0] * 4, 0.0, 0.0),
    "certain and wrong": ([-1000.0] * 4, 1.0, 1.0),
}


@pytest.mark.parametrize(("given", "error", "brier"), CASES.values(), ids=CASES)
def test_error_and_score_are_those_of_the_constructed_margins(given, error, brier):
    found = calibration(given)
    assert found.expected_calibration_error == pytest.approx(error, abs=1e-9)
    assert found.brier_score == pytest.approx(brier, abs=1e-9)
    assert sum(one.pairs for one in found.bins) == len(given)


def test_each_pair_is_in_the_bin_of_its_confidence():
    found = calibration([*margins(0.62, 3, 1), *margins(0.98, 2, 0), 0.0]).bins
    assert len(found) == BINS == 10
    assert [(one.lowest, one.highest, one.pairs) for one in found if one.pairs] == [
        (0.5, 0.55, 1),
        (0.6, 0.65, 4),
        (0.95, 1.0, 2),
    ]
    assert [one.right for one in found if one.pairs] == [0.5, 0.75, 1.0]
    assert [one.confidence for one in found if one.pairs] == pytest.approx([0.5, 0.62, 0.98])
    assert found[1].confidence is found[1].right is None
