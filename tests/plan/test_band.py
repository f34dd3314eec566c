"""The band around a plan's memory: from the runs of a machine, once there are some."""

import pytest

from lora_ns.plan.memory.band import FEWEST, Band, band


def test_too_few_runs_have_the_published_band():
    assert band([(100, 100)] * (FEWEST - 1)).runs == 0
    assert band([]) == band([(100, 5)] * (FEWEST - 1))


@pytest.mark.parametrize("pairs", [[(0, 5)] * 9, [(5, 0)] * 9, [(-1, 4)] * 9])
def test_pairs_without_a_ratio_do_not_count(pairs):
    assert band(pairs) == band([])


def test_the_band_holds_the_runs():
    found = band([(100, 90), (200, 210), (1000, 1200)])
    assert found == Band(0.9, 1.2, 3)
    assert found.around(1000) == (900, 1200)


def test_one_run_in_ten_at_each_end_is_left_out():
    found = band([(100, 1), (100, 10_000), *[(100, 110)] * 8, (100, 100), (100, 120)])
    assert (found.low, found.high) == (0.97, 1.2)


def test_equal_runs_still_leave_room():
    found = band([(100, 100)] * 20)
    assert found.low < 1 < found.high
