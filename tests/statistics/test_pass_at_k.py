"""pass@k without bias: the share of draws that have a right sample."""

from itertools import combinations

import pytest

from lora_ns.statistics import pass_at_k


@pytest.mark.parametrize("samples", range(1, 7))
def test_it_is_the_share_of_draws_with_a_right_sample(samples):
    for right in range(samples + 1):
        for k in range(1, samples + 1):
            draws = [min(draw) < right for draw in combinations(range(samples), k)]
            assert pass_at_k(samples, right, k) == pytest.approx(sum(draws) / len(draws))


def test_many_samples_do_not_overflow():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


@pytest.mark.parametrize(("samples", "right", "k"), [(5, 6, 1), (5, -1, 1), (5, 1, 6), (5, 1, 0), (0, 0, 1)])
def test_draws_that_cannot_be_made_are_refused(samples, right, k):
    with pytest.raises(ValueError, match="no pass@"):
        pass_at_k(samples, right, k)
