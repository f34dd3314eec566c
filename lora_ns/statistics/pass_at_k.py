"""pass@k: the share of problems that one of several samples solves."""

from math import comb


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The probability that one of `k` samples is right, without bias (Chen et al. 2021, arXiv 2107.03374).

    Args:
        samples: samples of the problem.
        right: those of them that are right.
        k: samples that are drawn from them, without replacement.

    Raises:
        ValueError: if there are not so many samples.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"no pass@{k} of {samples} samples, {right} of them right")
    return 1 - comb(samples - right, k) / comb(samples, k)
